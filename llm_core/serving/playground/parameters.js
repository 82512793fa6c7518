// The settings of a request: their fields, what they mean, and what of them is sent.

import { $, make } from "./dom.js";
import { recall, remember } from "./memory.js";

const PARAMETERS = [
  { group: "Length", name: "max_tokens", label: "Max tokens", type: "number", min: 1, step: 1, value: 120,
    about: "The answer ends after so many tokens, or at the end of the context." },
  { group: "Length", name: "stop", label: "Stop texts", type: "lines", value: "",
    about: "The answer ends before any of these, one a line; \\n is a line's end." },
  { group: "Choice of tokens", name: "temperature", label: "Temperature", type: "range", min: 0, max: 2, step: 0.05, value: 0.8,
    about: "0 always takes the likeliest token; higher is more varied." },
  { group: "Choice of tokens", name: "top_p", label: "Top p", type: "range", min: 0.05, max: 1, step: 0.05, value: 0.95,
    about: "Only the likeliest tokens that together have this probability." },
  { group: "Choice of tokens", name: "top_k", label: "Top k", type: "number", min: 0, step: 1, value: 0, neutral: 0,
    about: "Only so many of the likeliest tokens; 0 for all." },
  { group: "Choice of tokens", name: "min_p", label: "Min p", type: "range", min: 0, max: 1, step: 0.01, value: 0, neutral: 0,
    about: "Only tokens at least this share as likely as the likeliest." },
  { group: "Choice of tokens", name: "seed", label: "Seed", type: "number", step: 1, value: "", optional: true, placeholder: "a new one each time",
    about: "The same seed, request and version give the same answer." },
  { group: "Repetition", name: "presence_penalty", label: "Presence penalty", type: "range", min: -2, max: 2, step: 0.1, value: 0, neutral: 0,
    about: "Against tokens that the answer holds already, once." },
  { group: "Repetition", name: "frequency_penalty", label: "Frequency penalty", type: "range", min: -2, max: 2, step: 0.1, value: 0, neutral: 0,
    about: "The same, each time they came." },
  { group: "Repetition", name: "repetition_penalty", label: "Repetition penalty", type: "range", min: 0.5, max: 2, step: 0.05, value: 1, neutral: 1,
    about: "Above 1: against tokens of the prompt and the answer." },
  { group: "Answers", name: "n", label: "Answers", type: "number", min: 1, max: 8, step: 1, value: 1, neutral: 1,
    about: "So many to each request, side by side with their seeds following each other." },
  { group: "Answers", name: "system", label: "System message", type: "lines", value: "", chat: true,
    about: "What a chat begins with, where the model's template knows such a message." },
];

/** Build the fields, with the values that this browser remembers. */
export function showParameters(place) {
  const groups = new Map();
  for (const parameter of PARAMETERS) {
    const { group } = parameter;
    if (!groups.has(group)) groups.set(group, make("fieldset", {}, make("legend", { text: group })));
    groups.get(group).append(row(parameter));
  }
  place.append(...groups.values());
  fill(recall("parameters", {}));
  place.addEventListener("input", () => { showValues(); remember("parameters", rawValues()); });
}

export function resetParameters() {
  fill({});
  remember("parameters", {});
}

/** The part of a request that these settings make; what changes nothing is left out. */
export function requestValues() {
  const sent = PARAMETERS.filter(({ name }) => !["stop", "seed", "system"].includes(name));
  const numbers = sent.map(({ name, neutral }) => [name, Number(field(name).value), neutral]);
  const values = Object.fromEntries(numbers.filter(([, value, neutral]) => value !== neutral).map(([name, value]) => [name, value]));
  const stops = field("stop").value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  return stops.length ? { ...values, stop: stops } : values;
}

/** The seed that was typed, or a new one: all answers that are compared begin with the same. */
export function seed() {
  const typed = field("seed").value;
  return typed === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(typed);
}

export function systemMessage() {
  return field("system").value.trim();
}

function row({ name, label, type, about, chat, optional, ...limits }) {
  const hint = make("small", { id: `${name}-about`, text: about });
  const shown = make("output", { class: "value", for: name, id: `${name}-value` });
  const caption = make("label", { for: name, text: label });
  const input = type === "lines"
    ? make("textarea", { id: name, rows: 2, spellcheck: false })
    : make("input", { id: name, type, required: type === "number" && !optional, ...limits });
  input.setAttribute("aria-describedby", hint.id);
  const head = make("div", { class: "row-head" }, caption, ...(type === "range" ? [shown] : []));
  return make("div", { class: chat ? "parameter chat-only" : "parameter" }, head, input, hint);
}

function fill(values) {
  for (const { name, value } of PARAMETERS) field(name).value = values[name] ?? value;
  showValues();
}

function showValues() {
  for (const { name, type } of PARAMETERS) {
    if (type === "range") $(`${name}-value`).textContent = String(Number(field(name).value));
  }
}

function rawValues() {
  return Object.fromEntries(PARAMETERS.map(({ name }) => [name, field(name).value]));
}

function field(name) {
  return $(name);
}
