// Where answers are written: behind their prompt, or as turns of a conversation.

import { copyButton, make } from "./dom.js";
import { addPiece } from "./tokens.js";

/** One answer: its element, and its text so far. */
export class Place {
  constructor(element, before = "") {
    this.element = element;
    this.before = before;
    this.text = "";
  }

  add(text, tokens) {
    this.text += text;
    addPiece(this.element, text, tokens);
  }

  empty() {
    this.text = "";
    this.element.replaceChildren();
  }
}

/** A prompt and its answer, in one text. */
export function completionPlace(answers, prompt, number) {
  const written = make("span", { class: "written" });
  const place = new Place(written, prompt);
  const text = make("p", { class: "text" }, make("span", { class: "prompt", text: prompt }), written);
  const head = number ? [make("h3", { text: `Answer ${number}` })] : [];
  const copy = copyButton("Copy", () => place.before + place.text);
  answers.append(make("article", { class: "completion" }, ...head, text, make("div", { class: "doings" }, copy)));
  return place;
}

/** What the person said; it can be taken back into the field and said otherwise. */
export function saidTurn(answers, content, onEdit) {
  const edit = make("button", { type: "button", class: "quiet", text: "Edit", data: { idle: "" }, onclick: onEdit });
  const text = make("p", { class: "text", text: content });
  const doings = make("div", { class: "doings" }, edit, copyButton("Copy", () => content));
  answers.append(make("article", { class: "turn user", "aria-label": "You" }, text, doings));
}

/** The places of a turn's answers; of several, the picked one is what the conversation goes on with. */
export function answerTurn(answers, count, onRetry) {
  const turn = { places: [], picked: 0 };
  const picks = [];
  for (let number = 0; number < count; number += 1) {
    const written = make("span", { class: "written" });
    const place = new Place(written);
    const doings = make("div", { class: "doings" }, copyButton("Copy", () => place.text));
    if (number === 0) doings.prepend(make("button", { type: "button", class: "quiet retry", text: "Retry", data: { idle: "" }, onclick: onRetry }));
    if (count > 1) doings.append(pickButton(turn, picks, number));
    const text = make("p", { class: "text" }, written);
    answers.append(make("article", { class: "turn assistant", "aria-label": `Answer ${number + 1}` }, text, doings));
    turn.places.push(place);
  }
  return turn;
}

function pickButton(turn, picks, number) {
  const button = make("button", { type: "button", class: "quiet pick", text: "Go on with this one", "aria-pressed": String(number === 0) });
  button.addEventListener("click", () => {
    turn.picked = number;
    picks.forEach((pick, other) => pick.setAttribute("aria-pressed", String(other === number)));
  });
  picks.push(button);
  return button;
}
