// What screen readers are told while an answer is written: whole sentences, every few seconds, not each token.

import { $ } from "./dom.js";

const EVERY_MS = 2500;

export function say(text) {
  $("announcement").textContent = text;
}

/** The voice of one answer. */
export class Voice {
  constructor(name) {
    this.name = name;
    this.waiting = "";
    this.last = 0;
  }

  begin() {
    this.waiting = "";
    this.last = performance.now();
    say(`${this.name}writing the answer.`);
  }

  add(text) {
    this.waiting += text;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => this.waiting.lastIndexOf(mark))) + 1;
    if (end === 0 || performance.now() - this.last < EVERY_MS) return;
    this.last = performance.now();
    say(this.name + this.waiting.slice(0, end));
    this.waiting = this.waiting.slice(end);
  }

  end(words) {
    say(`${this.name}${this.waiting} ${words}`);
  }
}
