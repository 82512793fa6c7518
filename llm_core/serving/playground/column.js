// One model's side of the page: which model, its answers, how fast they came, and what went wrong.

import { Problem, events, postJson } from "./api.js";
import { copyOf, make } from "./dom.js";
import { answerTurn, completionPlace, saidTurn } from "./places.js";
import { Voice } from "./speech.js";
import { pieceOf } from "./tokens.js";

const ALTERNATIVES = 5;
const MOST_WAITS = 20;
const NEAR_PIXELS = 60;
const ENDINGS = { length: "cut at the limit", stop: "ended by itself" };

export class Column {
  /** `page` has: setBusy(), about(version), edit(turn), retry(column). */
  constructor(page, letter) {
    this.page = page;
    this.element = copyOf("column");
    this.running = null;
    this.turns = [];
    this.request = null;
    this.version = null;
    this.voice = new Voice("");
    for (const part of ["model", "about", "answers", "figures", "error", "again"]) this[part] = this.element.querySelector(`.${part}`);
    this.element.setAttribute("aria-label", `Model ${letter}`);
    this.element.dataset.letter = letter;
    this.about.addEventListener("click", () => page.about(this.version || this.model.value));
    this.again.addEventListener("click", () => this.repeat({}));
    this.model.addEventListener("change", () => { this.version = null; });
  }

  /** Offer models, as pairs of name and label, keeping the chosen one where it is still there. */
  offer(labels, preferred) {
    const isThere = labels.some(([name]) => name === this.model.value);
    const chosen = isThere ? this.model.value : preferred;
    this.model.replaceChildren(...labels.map(([name, text]) => make("option", { value: name, text })));
    this.model.value = chosen;
  }

  complete(prompt, values) {
    this.clear();
    const count = values.n || 1;
    const places = Array.from({ length: count }, (_, place) => completionPlace(this.answers, prompt, count > 1 ? place + 1 : 0));
    return this.write("v1/completions", { ...values, prompt, logprobs: ALTERNATIVES }, places);
  }

  say(said, system, values) {
    saidTurn(this.answers, said.at(-1), () => this.page.edit(said.length - 1));
    const turn = answerTurn(this.answers, values.n || 1, () => this.page.retry(this));
    const messages = this.messages(said, system);
    this.turns.push(turn);
    this.answers.scrollTop = this.answers.scrollHeight;
    return this.write("v1/chat/completions", { ...values, messages, logprobs: true, top_logprobs: ALTERNATIVES }, turn.places);
  }

  /** Forget the turns from this one on. */
  cut(turn) {
    const starts = [...this.answers.querySelectorAll(".turn.user")];
    while (starts[turn]?.nextElementSibling) starts[turn].nextElementSibling.remove();
    starts[turn]?.remove();
    this.turns.length = Math.min(this.turns.length, turn);
    this.hideError();
    this.showFigures([]);
  }

  /** Take over another column's conversation as it stands, so that both go on from the same. */
  fork(said, other) {
    said.forEach((content, number) => {
      saidTurn(this.answers, content, () => this.page.edit(number));
      const turn = answerTurn(this.answers, 1, () => this.page.retry(this));
      turn.places[0].add(textOf(other.turns[number]), []);
      this.turns.push(turn);
    });
  }

  clear() {
    this.answers.replaceChildren();
    this.turns = [];
    this.request = null;
    this.hideError();
    this.showFigures([]);
  }

  stop() {
    this.running?.abort();
  }

  /** The last request once more, changed by `values`. */
  repeat(values) {
    if (this.running || !this.request) return;
    const { path, body, places } = this.request;
    places.forEach((place) => place.empty());
    this.write(path, { ...body, ...values }, places);
  }

  messages(said, system) {
    const messages = system ? [{ role: "system", content: system }] : [];
    said.forEach((content, number) => {
      const isLast = number === said.length - 1;
      const answer = isLast ? "" : textOf(this.turns[number]);
      if (!isLast && !answer) return;  // what got no answer is not part of what follows
      messages.push({ role: "user", content });
      if (!isLast) messages.push({ role: "assistant", content: answer });
    });
    return messages;
  }

  async write(path, body, places) {
    this.request = { path, body, places };
    this.running = new AbortController();
    this.page.setBusy();
    this.hideError();
    this.showFigures([]);
    this.answers.setAttribute("aria-busy", "true");
    places.forEach((place) => place.element.classList.add("live"));
    this.voice.begin();
    const ending = await this.ended(path, body, places);
    places.forEach((place) => place.element.classList.remove("live"));
    this.answers.setAttribute("aria-busy", "false");
    this.running = null;
    this.voice.end(`Answer ${ending}.`);
    this.page.setBusy();
  }

  /** Have it written; how that ended, in words. */
  async ended(path, body, places) {
    const figures = { seed: body.seed, tokens: 0, began: performance.now(), first: 0, last: 0, ending: "" };
    try {
      if (!this.model.value) await this.page.refresh();  // sent before the first look at the server came back
      await this.patiently(() => this.stream(path, { ...body, model: this.model.value }, places, figures));
    } catch (problem) {
      figures.ending = problem.name === "AbortError" ? "stopped" : "failed";
      if (figures.ending === "failed") this.showError(problem);
    }
    this.showFigures(figuresOf(figures));
    return figures.ending;
  }

  /** Ask again while the server says that it will have time later. */
  async patiently(ask) {
    for (let waits = 0; ; waits += 1) {
      try {
        return await ask();
      } catch (problem) {
        const isLater = problem instanceof Problem && problem.retrySeconds !== null && waits < MOST_WAITS;
        if (!isLater) throw problem;
        await this.waitOut(problem);
      }
    }
  }

  async waitOut(problem) {
    this.showError(problem, false);
    const clock = make("span", { class: "countdown", "aria-hidden": "true" });  // not to be read out each second
    this.error.querySelector(".error-text").append(make("span", { text: " Trying again" }), clock, ".");
    for (let left = Math.max(1, problem.retrySeconds); left > 0; left -= 1) {
      clock.textContent = ` in ${left} s`;
      await pause(1000, this.running.signal);
    }
    this.hideError();
  }

  async stream(path, body, places, figures) {
    const asked = { ...body, stream: true, stream_options: { include_usage: true } };
    figures.began = performance.now();
    const response = await postJson(path, asked, this.running.signal);
    this.version = response.headers.get("x-tidemill-version");
    for await (const { choices: [choice], usage } of events(response)) {
      if (usage) figures.tokens = usage.completion_tokens;
      if (choice) this.take(choice, places[choice.index], figures);
    }
  }

  take(choice, place, figures) {
    figures.ending = ENDINGS[choice.finish_reason] || figures.ending;
    const { text, tokens } = pieceOf(choice);
    if (!text) return;
    figures.first ||= performance.now();
    figures.last = performance.now();
    figures.tokens += Math.max(tokens.length, 1);
    keepingTheEndInView(this.answers, () => place.add(text, tokens));
    if (choice.index === 0) this.voice.add(text);
    this.showFigures(figuresOf(figures));
  }

  showFigures(figures) {
    const shown = this.version && figures.length ? [this.version, ...figures] : [];
    this.figures.replaceChildren(...shown.map((text) => make("li", { text })));
  }

  showError(problem, canRepeat = true) {
    const { message, advice } = problem instanceof Problem ? problem : new Problem(`The page failed: ${problem.message}`, "page");
    this.error.querySelector(".error-title").textContent = message;
    this.error.querySelector(".error-text").replaceChildren(advice);
    this.again.hidden = !canRepeat;
    this.error.hidden = false;
  }

  hideError() {
    this.error.hidden = true;
  }
}

function textOf(turn) {
  return turn ? turn.places[turn.picked].text : "";
}

function figuresOf({ tokens, began, first, last, seed, ending }) {
  const seconds = (last - first) / 1000;
  const speed = tokens > 1 && seconds > 0 ? [`${Math.round((tokens - 1) / seconds)} tokens/s`] : [];
  const wait = first ? [`first after ${Math.round(first - began)} ms`] : [];
  return [`${tokens} tokens`, ...speed, ...wait, `seed ${seed}`, ...(ending ? [ending] : [])];
}

/** Someone who reads the end of a conversation goes on seeing it; someone who scrolled up stays there. */
function keepingTheEndInView(answers, change) {
  const isAtEnd = answers.scrollHeight - answers.clientHeight - answers.scrollTop < NEAR_PIXELS;
  change();
  if (isAtEnd) answers.scrollTop = answers.scrollHeight;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
