// The page: modes, columns, keys and the state of the server.

import { getJson, keys, onKeyNeeded } from "./api.js";
import { showCard } from "./card.js";
import { Column } from "./column.js";
import { $ } from "./dom.js";
import { recall, remember } from "./memory.js";
import { requestValues, resetParameters, seed, showParameters, systemMessage } from "./parameters.js";
import { explainTokens, hideTip } from "./tokens.js";

const STATE_EVERY_MS = 3000;
const FIRST_PROMPT = "The state of our union";
const MODES = ["text", "chat"];
const WORDS = {
  text: { prompt: "Prompt", send: "Generate" },
  chat: { prompt: "Message", send: "Send" },
};
const page = { setBusy, edit, retry, about: showCard, refresh: refreshState };
const columns = [];
let mode = null;
let said = [];          // what the person said, turn by turn
let offered = "";       // the models that the selects show

function busy() {
  return columns.some((column) => column.running);
}

function setBusy() {
  const isBusy = busy();
  $("stop").disabled = !isBusy;
  $("generate").disabled = isBusy;
  for (const button of document.querySelectorAll("[data-idle]")) button.disabled = isBusy;
}

function send() {
  const prompt = $("prompt").value;
  if (busy() || (mode === "chat" && prompt.trim() === "")) return;
  const values = { ...requestValues(), seed: seed() };
  if (mode === "text") {
    columns.forEach((column) => column.complete(prompt, values));
    return;
  }
  said.push(prompt);
  $("prompt").value = "";
  columns.forEach((column) => column.say(said, systemMessage(), values));
}

/** Take a turn back into the field; it and what followed leave the conversation. */
function edit(turn) {
  if (busy()) return;
  $("prompt").value = said[turn];
  said.length = turn;
  columns.forEach((column) => column.cut(turn));
  $("prompt").focus();
}

function retry(column) {
  column.repeat({ seed: seed() });
}

function clear() {
  if (busy()) return;
  said = [];
  columns.forEach((column) => column.clear());
  $("prompt").focus();
}

function stop() {
  columns.forEach((column) => column.stop());
}

function choose(next) {
  if (busy() || next === mode) return;
  said = [];
  columns.forEach((column) => column.clear());
  mode = next;
  remember("mode", mode);
  for (const kind of MODES) {
    const tab = $(`tab-${kind}`);
    tab.setAttribute("aria-selected", String(kind === mode));
    tab.tabIndex = kind === mode ? 0 : -1;
  }
  $("main").dataset.mode = mode;
  $("work").setAttribute("aria-labelledby", `tab-${mode}`);
  $("prompt-label").textContent = WORDS[mode].prompt;
  $("generate").textContent = WORDS[mode].send;
  $("prompt").value = mode === "chat" ? "" : FIRST_PROMPT;
  // A conversation is read downwards to the field, a completion follows it; moved, so that the Tab key agrees.
  if (mode === "chat") $("work").append($("request"));
  else $("work").prepend($("request"));
}

function compare(isOn) {
  if (isOn && columns.length === 1) addColumn("B").fork(said, columns[0]);
  if (!isOn && columns.length === 2) columns.pop().element.remove();
  const isSplit = columns.length === 2;
  $("main").dataset.columns = String(columns.length);
  columns.forEach((column) => { column.voice.name = isSplit ? `Model ${column.element.dataset.letter}: ` : ""; });
  remember("compare", isSplit);
  offered = "";
  refreshState();
}

function addColumn(letter) {
  const column = new Column(page, letter);
  columns.push(column);
  $("columns").append(column.element);
  explainTokens(column.answers);
  return column;
}

async function refreshState() {
  const state = await getJson("version", true).catch(() => null);
  showState(state);
  // Not all of their state: counts change with every look, and asking for the models counts against a key's rate.
  const known = state && JSON.stringify(Object.values(state.lines).map((line) => [line.model?.name, line.previous, line.trial?.challenger]));
  if (!known || known === offered) return;
  offered = known;
  try {
    showModels(state, (await getJson("v1/models")).data);
  } catch (problem) {
    showModels(state, []);
    offered = problem.status === 401 ? known : "";  // whoever gave no key is not asked for it every three seconds
  }
}

function showState(state) {
  const { model, status, line, registry } = state || {};
  $("state").dataset.status = state ? status : "away";
  const names = { away: "server not reachable", waiting: `${line}: no model yet`, draining: "the server is ending", ready: model?.name };
  put("state-name", names[$("state").dataset.status] || status);
  put("state-facts", model ? `${short(model.num_parameters)} parameters · context ${model.context}` : "");
  $("state").title = registry?.refused ? `${registry.refused} is refused: ${registry.refused_because}` : "";
}

/** Only what changes is read out. */
function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function showModels(state, models) {
  // A line that has no version yet can be asked for, and answers why there is none.
  const labels = models.length ? models.map((model) => [model.id, label(model, state)]) : [[state.line, state.line]];
  const names = labels.map(([name]) => name);
  const [first] = names;
  const previous = Object.values(state.lines).map((line) => line.previous);
  const other = previous.find((name) => names.includes(name)) || names.find((name) => !name.startsWith(first)) || first;
  columns.forEach((column, place) => column.offer(labels, place === 0 ? first : other));
}

function label({ id, tidemill }, { lines }) {
  if (id !== tidemill.name) return `${id} (now ${tidemill.name.replace(`${id}@`, "@")})`;
  const roles = Object.values(lines);
  if (roles.some((line) => line.model?.name === id)) return `${id} (champion)`;
  return roles.some((line) => line.previous === id) ? `${id} (previous)` : id;
}

function short(value) {
  return Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

let askingForKey = null;

/** One window, however many requests were refused at once; true once there is a new key. */
function askForKey(why) {
  askingForKey ??= new Promise((resolve) => {
    $("key-why").textContent = why;
    $("key-text").value = "";
    $("key").showModal();
    $("key").addEventListener("close", () => {
      askingForKey = null;
      const key = $("key-text").value.trim();
      const isGiven = $("key").returnValue === "given" && key !== "";
      if (isGiven) keys.set(key);
      if (isGiven) offered = "";
      $("key-text").value = "";
      $("forget-key").hidden = keys.get() === null;
      resolve(isGiven);
    }, { once: true });
  });
  return askingForKey;
}

function listenToKeyboard(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) $("request").requestSubmit();
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (!hideTip() || busy()) stop();
}

function listen() {
  for (const kind of MODES) {
    $(`tab-${kind}`).addEventListener("click", () => choose(kind));
    $(`tab-${kind}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      choose(mode === "chat" ? "text" : "chat");
      $(`tab-${mode}`).focus();
    });
    $(`tab-${kind}`).dataset.idle = "";
  }
  $("request").addEventListener("submit", (event) => {
    event.preventDefault();
    const wrong = document.querySelector("#settings input:invalid");
    if (wrong) showWrong(wrong);
    else send();
  });
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", clear);
  $("reset").addEventListener("click", resetParameters);
  $("compare").addEventListener("change", (event) => compare(event.target.checked));
  $("colours").addEventListener("change", (event) => colour(event.target.checked));
  $("show-keys").addEventListener("click", () => $("shortcuts").showModal());
  $("forget-key").addEventListener("click", () => { keys.forget(); $("forget-key").hidden = true; });
  $("key-form").addEventListener("submit", (event) => { event.preventDefault(); $("key").close("given"); });
  for (const button of document.querySelectorAll("dialog .close")) button.addEventListener("click", () => button.closest("dialog").close(""));
  $("theme").addEventListener("change", (event) => {
    localStorage.setItem("tidemill.theme", event.target.value);
    document.documentElement.dataset.theme = event.target.value;
  });
  document.addEventListener("keydown", listenToKeyboard);
}

/** Say what is wrong with a setting, where it can be seen. */
function showWrong(field) {
  for (let place = field.closest("details"); place; place = place.parentElement.closest("details")) place.open = true;
  field.reportValidity();
}

function colour(isOn) {
  document.body.classList.toggle("coloured", isOn);
  $("legend").hidden = !isOn;
  remember("colours", isOn);
}

function start() {
  onKeyNeeded(askForKey);
  showParameters($("parameters"), $("more-parameters"));
  $("settings").open = matchMedia("(min-width: 60rem)").matches;
  $("theme").value = document.documentElement.dataset.theme;
  $("forget-key").hidden = keys.get() === null;
  $("compare").dataset.idle = "";
  addColumn("A");
  listen();
  choose(MODES.find((kind) => kind === recall("mode", "text")) || "text");
  $("colours").checked = recall("colours", false);
  colour($("colours").checked);
  $("compare").checked = recall("compare", false);
  compare($("compare").checked);
  setInterval(refreshState, STATE_EVERY_MS);
}

start();
