// An answer's text, token by token, and how likely the model found each: on hover, on touch and by the keyboard.

import { $, make } from "./dom.js";

const LEVELS = [0.01, 0.1, 0.5, 0.9];
const HIDING_MS = 120;
const KEYS = { ArrowRight: "next", ArrowLeft: "previous", Home: "first", End: "last" };
const told = new WeakMap();  // token element -> its tokens, as the model counts them

/** Add a piece of an answer: its text, and the tokens that it is made of. */
export function addPiece(place, text, tokens) {
  const isWhole = tokens.map((token) => token.text).join("") === text;
  // A character can be several tokens, and a stop text may have cut some: those are shown together.
  const parts = isWhole ? tokens.filter((token) => token.text).map((token) => [token.text, [token]]) : [[text, tokens]];
  for (const [part, made] of parts) place.append(made.length ? tokenElement(place, part, made) : part);
}

/** A choice's new text and tokens, in one form for completions and chats. */
export function pieceOf(choice) {
  const text = (choice.delta ? choice.delta.content : choice.text) || "";
  const { logprobs } = choice;
  if (!logprobs) return { text, tokens: [] };
  return { text, tokens: logprobs.content ? logprobs.content.map(ofChat) : ofCompletion(logprobs) };
}

/** Show probabilities in all answers inside `place`. */
export function explainTokens(place) {
  const tip = $("tip");
  let hiding = 0;
  let pointer = "";
  const show = (event) => {
    const token = event.target.closest?.(".token");
    if (!token) return;
    clearTimeout(hiding);
    showTip(tip, token);
  };
  // Text that is written under a resting pointer says "over" as well; only one that moves asks for something.
  const showIfMoved = (event) => { if (at(event) !== pointer) show(event); };
  addEventListener("pointermove", (event) => { pointer = at(event); }, { passive: true });
  const hideSoon = () => { clearTimeout(hiding); hiding = setTimeout(hideTip, HIDING_MS); };
  place.addEventListener("pointerover", showIfMoved);
  place.addEventListener("focusin", show);
  place.addEventListener("click", show);
  place.addEventListener("pointerout", hideSoon);
  place.addEventListener("focusout", hideSoon);
  place.addEventListener("keydown", step);
  tip.addEventListener("pointerenter", () => clearTimeout(hiding));
  tip.addEventListener("pointerleave", hideSoon);
  addEventListener("scroll", hideTip, { passive: true, capture: true });
}

function at({ clientX, clientY }) {
  return `${clientX} ${clientY}`;
}

/** Hide the probabilities; true if there were any to hide. */
export function hideTip() {
  const tip = $("tip");
  const wasShown = !tip.hidden;
  tip.hidden = true;
  document.querySelector(".token[aria-describedby]")?.removeAttribute("aria-describedby");
  return wasShown;
}

function ofChat({ token, logprob, top_logprobs: top }) {
  return { text: token, logprob, top: top.map((other) => ({ text: other.token, logprob: other.logprob })) };
}

function ofCompletion({ tokens, token_logprobs: logprobs, top_logprobs: tops }) {
  return tokens.map((text, place) => {
    const top = Object.entries(tops?.[place] || {}).map(([other, logprob]) => ({ text: other, logprob }));
    return { text, logprob: logprobs[place], top: top.sort((one, two) => two.logprob - one.logprob) };
  });
}

function tokenElement(place, text, tokens) {
  const share = shareOf(tokens);
  const level = LEVELS.filter((bound) => share >= bound).length;
  // One stop of the Tab key for an answer; the arrows go on from there.
  const element = make("span", { class: `token p${level}`, text, tabIndex: place.querySelector(".token") ? -1 : 0 });
  told.set(element, tokens);
  return element;
}

function shareOf(tokens) {
  return Math.exp(tokens.reduce((sum, token) => sum + token.logprob, 0));
}

function step(event) {
  const token = event.target.closest(".token");
  const where = KEYS[event.key];
  if (!token || !where || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const all = [...token.parentElement.querySelectorAll(".token")];
  const here = all.indexOf(token);
  const goal = { next: here + 1, previous: here - 1, first: 0, last: all.length - 1 }[where];
  if (!all[goal]) return;
  token.tabIndex = -1;
  all[goal].tabIndex = 0;
  all[goal].focus();
}

function showTip(tip, token) {
  hideTip();
  const tokens = told.get(token);
  const [only] = tokens;
  const head = make("p", {}, make("b", { text: visible(token.textContent) }), ` ${percent(shareOf(tokens))}`);
  tip.replaceChildren(head, tokens.length === 1 ? alternatives(only) : partsList(tokens));
  tip.hidden = false;
  token.setAttribute("aria-describedby", tip.id);
  placeTip(tip, token);
}

function alternatives(token) {
  const isListed = token.top.some((other) => other.text === token.text);
  const all = isListed || !token.top.length ? token.top : [...token.top, token];
  return make("ol", {}, ...all.map((other) => likelihood(other, other.text === token.text)));
}

function likelihood({ text, logprob }, isChosen) {
  const bar = make("i", { "aria-hidden": "true" });
  bar.style.setProperty("--share", Math.exp(logprob));
  const words = [make("span", { text: visible(text) }), make("span", { class: "number", text: percent(Math.exp(logprob)) })];
  return make("li", { class: isChosen ? "chosen" : "" }, ...words, bar);
}

function partsList(tokens) {
  const rows = tokens.map((token) => likelihood(token, false));
  return make("div", {}, make("p", { text: `made of ${tokens.length} tokens` }), make("ol", {}, ...rows));
}

/** Below the token, or above it where there is no room, and never beyond the window's sides. */
function placeTip(tip, token) {
  const at = token.getClientRects()[0];
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8));
  const hasRoomBelow = at.bottom + height + 12 <= innerHeight || at.top < height + 12;
  tip.style.left = `${left}px`;
  tip.style.top = `${hasRoomBelow ? at.bottom + 6 : at.top - height - 6}px`;
}

function visible(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(nothing)";
}

function percent(share) {
  if (share < 0.001) return "under 0.1 %";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
