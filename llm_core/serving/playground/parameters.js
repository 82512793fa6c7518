// The settings of a request: their fields, what they mean, and what of them is sent.

import { $, make } from "./dom.js";
import { recall, remember } from "./memory.js";

const PARAMETERS = [
  { name: "system", label: "System message", type: "lines", value: "", chat: true,
    about: "What a chat begins with, where the model's template knows such a message." },
  { name: "max_tokens", label: "Max tokens", type: "number", min: 1, step: 1, value: 120, half: true,
    about: "The answer's end, if the context does not end it." },
  { name: "seed", label: "Seed", type: "number", step: 1, value: "", optional: true, placeholder: "random", half: true,
    about: "The same one gives the same answer again." },
  { name: "temperature", label: "Temperature", type: "range", min: 0, max: 2, step: 0.05, value: 0.8,
    about: "0 always takes the likeliest token; higher is more varied." },
  { name: "top_p", label: "Top p", type: "range", min: 0.05, max: 1, step: 0.05, value: 0.95,
    about: "Only the likeliest tokens that together have this probability." },
  { name: "min_p", label: "Min p", type: "range", min: 0, max: 1, step: 0.01, value: 0, neutral: 0, more: true,
    about: "Only tokens at least this share as likely as the likeliest." },
  { name: "top_k", label: "Top k", type: "number", min: 0, step: 1, value: 0, neutral: 0, more: true, half: true,
    about: "Only so many of the likeliest tokens; 0 for all." },
  { name: "n", label: "Answers", type: "number", min: 1, max: 8, step: 1, value: 1, neutral: 1, more: true, half: true,
    about: "So many to each request, from seeds that follow each other." },
  { name: "presence_penalty", label: "Presence penalty", type: "range", min: -2, max: 2, step: 0.1, value: 0, neutral: 0, more: true,
    about: "Against tokens that the answer holds already, once." },
  { name: "frequency_penalty", label: "Frequency penalty", type: "range", min: -2, max: 2, step: 0.1, value: 0, neutral: 0, more: true,
    about: "The same, for each time that they came." },
  { name: "repetition_penalty", label: "Repetition penalty", type: "range", min: 0.5, max: 2, step: 0.05, value: 1, neutral: 1, more: true,
    about: "Above 1: against tokens of the prompt and the answer." },
  { name: "stops", label: "Stop texts", type: "lines", value: "", more: true,
    about: "The answer ends before any of these, one a line; \\n is a line's end." },
];

/** Build the fields, with the values that this browser remembers. */
export function showParameters(place, more) {
  for (const parameter of PARAMETERS) (parameter.more ? more : place).append(row(parameter));
  fill(recall("parameters", {}));
  for (const fields of [place, more]) {
    fields.addEventListener("input", () => { showValues(); remember("parameters", rawValues()); });
  }
}

export function resetParameters() {
  fill({});
  remember("parameters", {});
}

/** The part of a request that these settings make; what changes nothing is left out. */
export function requestValues() {
  const sent = PARAMETERS.filter(({ name }) => !["stops", "seed", "system"].includes(name));
  const numbers = sent.map(({ name, neutral }) => [name, Number($(name).value), neutral]);
  const values = Object.fromEntries(numbers.filter(([, value, neutral]) => value !== neutral).map(([name, value]) => [name, value]));
  const stops = $("stops").value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  return stops.length ? { ...values, stop: stops } : values;
}

/** The seed that was typed, or a new one: all answers that are compared begin with the same. */
export function seed() {
  const typed = $("seed").value;
  return typed === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(typed);
}

export function systemMessage() {
  return $("system").value.trim();
}

function row({ name, label, type, about, chat, half, optional, min, max, step, value, placeholder = "" }) {
  const hint = make("small", { id: `${name}-about`, text: about });
  const shown = make("output", { class: "value", for: name, id: `${name}-value` });
  const caption = make("label", { for: name, text: label });
  const input = type === "lines"
    ? make("textarea", { id: name, rows: 2, spellcheck: false })
    : make("input", { id: name, type, min: min ?? "", max: max ?? "", step, value, placeholder, required: !optional });
  input.setAttribute("aria-describedby", hint.id);
  const head = make("div", { class: "row-head" }, caption, ...(type === "range" ? [shown] : []));
  const kinds = ["parameter", ...(half ? ["half"] : []), ...(chat ? ["chat-only"] : [])];
  return make("div", { class: kinds.join(" ") }, head, input, hint);
}

function fill(values) {
  for (const { name, value } of PARAMETERS) $(name).value = values[name] ?? value;
  showValues();
}

function showValues() {
  for (const { name, type } of PARAMETERS) {
    if (type === "range") $(`${name}-value`).textContent = String(Number($(name).value));
  }
}

function rawValues() {
  return Object.fromEntries(PARAMETERS.map(({ name }) => [name, $(name).value]));
}
