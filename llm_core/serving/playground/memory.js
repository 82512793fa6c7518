// What the page keeps in this browser: how it was set, never what was asked or answered.

const PLACE = "tidemill.playground";

function read() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) || {};
  } catch (problem) {  // an older page's, or not ours
    return {};
  }
}

export function recall(name, otherwise) {
  return read()[name] ?? otherwise;
}

export function remember(name, value) {
  localStorage.setItem(PLACE, JSON.stringify({ ...read(), [name]: value }));
}
