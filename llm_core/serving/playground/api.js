// Requests to this server, and in words what went wrong with them.

const KEY = "tidemill.key";
const ADVICE = {
  unreachable: "Check that it still runs, then try again.",
  context_length_exceeded: "Shorten the prompt, or clear the conversation.",
  invalid_conversation: "Use the completion tab, or a model with a chat template.",
  model_not_found: "Choose another model above.",
  model_not_ready: "The page goes on by itself as soon as there is one.",
  overloaded: "Others are being answered.",
  shutting_down: "It finishes what was begun and takes nothing new.",
  internal_error: "Look into its log, then try again.",
  generation_failed: "Try again; if it comes back, look into the server's log.",
  connection_lost: "What had come is kept. Try again to have it written anew.",
};

let askForKey = async () => false;

/** Set what happens when the server wants a key: a function of its words that gives true once there is a new key. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export const keys = {
  get: () => sessionStorage.getItem(KEY),
  set: (key) => sessionStorage.setItem(KEY, key),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A refusal or failure: what happened, what to do, and when to ask again if the server says so. */
export class Problem extends Error {
  constructor(message, code, status = 0, retrySeconds = null) {
    super(message);
    Object.assign(this, { code, status, retrySeconds, advice: ADVICE[code] || "" });
  }
}

export async function getJson(path, isQuiet = false) {
  return (await ask(path, {}, isQuiet)).json();
}

export function postJson(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Server-sent events of a response, as parsed JSON, until [DONE]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await readFrom(reader);
    if (done) throw new Problem("The connection ended before the answer was complete.", "connection_lost");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Problem(sentence(event.error.message), event.error.code, 500);
      yield event;
    }
  }
}

async function ask(path, options, isQuiet = false) {
  const key = keys.get();
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await reach(path, { ...options, headers });
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (response.status === 401 && !isQuiet && (await askForKey(problem.message))) return ask(path, options);
  throw problem;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Problem("The server cannot be reached.", "unreachable");
  }
}

async function readFrom(reader) {
  try {
    return await reader.read();
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Problem("The connection broke before the answer was complete.", "connection_lost");
  }
}

async function problemOf(response) {
  const { status, statusText } = response;
  const wait = Number.parseInt(response.headers.get("retry-after"), 10);
  const retrySeconds = [429, 503].includes(status) && wait >= 0 ? wait : null;
  try {
    const { message, code } = (await response.json()).error;
    return new Problem(sentence(message), code, status, retrySeconds);
  } catch (problem) {  // something between here and the server answered in its stead
    return new Problem(`The answer was ${status} ${statusText}.`, "http_error", status, retrySeconds);
  }
}

function sentence(message) {
  const isNamed = /^\S+:/.test(message);  // "demo: ..." is a name, which keeps its spelling
  const text = isNamed ? message : message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
