// Finds and makes elements. A text, a model's above all, becomes a text node, and never HTML.

export const $ = (id) => document.getElementById(id);

// Attributes that begin with "on" are listeners; true is an attribute without a value.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function table(headings, rows) {
  const head = el("tr", {}, ...headings.map((each) => el("th", { scope: "col" }, each)));
  const cells = (row) => row.map((cell) => el("td", {}, cell ?? ""));
  const body = rows.map((row) => el("tr", {}, ...cells(row)));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...body));
}

export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

// The clipboard's own interface is only there over HTTPS and on this machine.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = el("textarea", { class: "unseen" });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

export function number(value, digits = 0) {
  const options = { maximumFractionDigits: digits };
  return Number.isFinite(value) ? value.toLocaleString("en", options) : "–";
}

// The banner above everything; an empty text hides it.
export function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// Does some work now, and again some seconds after its end, while somebody looks at the page.
// Returns what ends that.
export function every(seconds, work) {
  let timer = 0;
  let isOver = false;
  const again = async () => {
    if (!document.hidden) {
      try {
        await work();
        if (!isOver) showProblem("");
      } catch (error) {
        if (!isOver) showProblem(error.message);
      }
    }
    if (!isOver) timer = setTimeout(again, seconds * 1000);
  };
  again();
  return () => {
    isOver = true;
    clearTimeout(timer);
  };
}
