// Elements. Text is always put in as text: nothing here, or anywhere in the page, turns it into markup.

export const $ = (id) => document.getElementById(id);

/** An element with properties (class, text, type, on..., data, aria-...) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") || name === "role" || name === "for") element.setAttribute(name, value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A copy of a template's one element. */
export function copyOf(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

/** A button that copies a text and says so. */
export function copyButton(label, text) {
  const button = make("button", { type: "button", class: "quiet", text: label });
  button.addEventListener("click", async () => {
    button.textContent = (await putInClipboard(text())) ? "Copied" : "Copying is not allowed here";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}

async function putInClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (problem) {
    return copyBySelection(text);
  }
}

/** Where a page came over plain HTTP, browsers keep the clipboard from it except by the old way. */
function copyBySelection(text) {
  const field = make("textarea", { value: text, class: "spoken" });
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}
