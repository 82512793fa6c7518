// The model card: what a version is and where it came from.

import { getJson } from "./api.js";
import { $, copyButton, make } from "./dom.js";

const SHAPE = {
  num_hidden_layers: "layers", num_layers: "layers", n_layer: "layers", hidden_size: "width", d_model: "width", n_embd: "width",
  num_attention_heads: "heads", n_head: "heads", num_key_value_heads: "key/value heads", intermediate_size: "MLP width", d_ff: "MLP width",
};

/** Open the card of a model by the name of its version or line. */
export async function showCard(name) {
  $("card-title").textContent = name;
  $("card-body").replaceChildren(make("p", { text: "asking …" }));
  $("card").showModal();
  try {
    const card = await getJson(`v1/models/${encodeURIComponent(name)}/card`);
    $("card-title").textContent = card.id;
    $("card-body").replaceChildren(...sections(card));
  } catch (problem) {
    $("card-body").replaceChildren(make("p", { class: "error", role: "alert", text: `${problem.message} ${problem.advice || ""}` }));
  }
}

function sections(card) {
  const parts = [
    section("What it is", facts(whatItIs(card))),
    section("Where it came from", ...origin(card)),
    section("What training measured", facts(flat(card.training))),
    section("config.json", make("pre", { text: JSON.stringify(card.shape, null, 1) })),
    section("README.md", ...(card.readme ? [make("pre", { class: "prose", text: card.readme })] : [])),
  ];
  return parts.filter(Boolean);
}

function section(title, ...content) {
  const filled = content.filter(Boolean);
  return filled.length ? make("section", {}, make("h3", { text: title }), ...filled) : null;
}

function whatItIs({ num_parameters: parameters, context, vocab_size: vocabulary, has_chat_template: chats, shape }) {
  const known = Object.entries(SHAPE).filter(([key]) => shape[key] !== undefined).map(([key, name]) => [name, shape[key]]);
  return {
    architecture: (shape.architectures || []).join(", ") || null,
    parameters: parameters.toLocaleString("en"),
    context: `${context.toLocaleString("en")} tokens`,
    vocabulary: vocabulary.toLocaleString("en"),
    ...Object.fromEntries(known),
    "chat template": chats ? "yes" : "no",
  };
}

function origin({ lineage, artifact, key, parents }) {
  const { command, commit, dirty, flow_run: flow, mlflow, recipe_sha256: recipe, license, dvc_lock_md5: lock, dvc } = lineage;
  const told = facts({
    "data licence": license,
    commit: commit && (dirty ? `${commit} with uncommitted changes` : commit),
    "flow run": flow, "MLflow run": mlflow, "recipe sha256": recipe, artifact, key, "dvc.lock md5": lock,
    ...prefixed("made from ", parents), ...prefixed("DVC md5 of ", dvc),
  });
  const nothing = "This folder is served without a registry, so no run, commit or data is known of it here.";
  return [command ? commandLine(command) : make("p", { text: nothing }), told];
}

/** The rest, down to the data files, is the command's to tell. */
function commandLine(command) {
  return make("p", { class: "command" }, make("code", { text: command }), copyButton("Copy", () => command));
}

function facts(values) {
  const rows = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return rows.length ? make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { class: isExact(value) ? "exact" : "", text: shown(value) })])) : null;
}

function shown(value) {
  return typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(5) : String(value);
}

/** Hashes and ids, which people compare character by character. */
function isExact(value) {
  return typeof value === "string" && /[0-9a-f]{8}/.test(value);
}

function prefixed(prefix, values) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]));
}

function flat(values, prefix = "") {
  return Object.assign({}, ...Object.entries(values).map(([name, value]) => {
    const isNested = value !== null && typeof value === "object" && !Array.isArray(value);
    return isNested ? flat(value, `${prefix}${name}.`) : { [prefix + name]: value };
  }));
}
