// One message as the page shows it: reasoning folded, text, calls of tools, and notes.

import { button, copy, el } from "./dom.js";

const NAMES = { user: "You", assistant: "Model", tool: "Result" };

export class MessageView {
  constructor(role, name = NAMES[role]) {
    this.text = el("div", { class: "text" });
    this.notes = el("div", { class: "notes" });
    this.head = el("header", {}, el("strong", {}, name), " ");
    this.element = el("article", { class: role }, this.head, this.text, this.notes);
    this.written = new Map(); // the text node that grows, by what it is in
  }

  addText(text) {
    this.append(this.text, text);
  }

  addReasoning(text) {
    if (!this.reasoning) {
      this.reasoning = el("pre", {});
      this.text.before(el("details", { class: "reasoning" }, el("summary", {}, "Reasoning"), this.reasoning));
    }
    this.append(this.reasoning, text);
  }

  append(into, text) {
    const node = this.written.get(into);
    if (node) return node.appendData(text);
    const made = document.createTextNode(text);
    this.written.set(into, made);
    into.append(made);
  }

  // Shows the whole text once it is there: what stands between fences is code.
  finish(text, { canCopy = true } = {}) {
    this.text.replaceChildren(...parts(text));
    if (!canCopy || !text) return;
    const done = button("Copy", async () => {
      await copy(text);
      done.textContent = "Copied";
      setTimeout(() => (done.textContent = "Copy"), 1500);
    }, { class: "small" });
    this.head.append(done);
  }

  addNote(text, kind = "quiet") {
    this.notes.append(el("p", { class: kind }, text));
  }

  // What a router told of the answer in its headers.
  addDecision(headers) {
    const told = [...headers].filter(([name]) => name.startsWith("x-vsr-"));
    if (!told.length) return;
    const of = Object.fromEntries(told.map(([name, value]) => [name.slice(6), decode(value)]));
    const decision = of["selected-decision"] ?? "no decision";
    const model = of["selected-model"] ?? of["response-path"];
    const rows = Object.entries(of).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
    const summary = el("summary", {}, `Routed: ${decision} → ${model}`);
    this.notes.append(el("details", { class: "decision" }, summary, el("dl", {}, ...rows)));
  }

  // Shows calls, with a field for the result of each, and gives the results to `onResults`.
  askResults(calls, onResults) {
    const fields = calls.map((call) => el("textarea", { rows: 2 }));
    const shown = calls.map((call, index) => {
      const name = call.function.name;
      const args = el("pre", {}, `${name}(${pretty(call.function.arguments)})`);
      return el("div", {}, args, el("label", {}, `Result of ${name} `, fields[index]));
    });
    const send = el("button", { class: "main" }, "Send the results");
    const form = el("form", { class: "calls" }, ...shown, send);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.endResults();
      onResults(fields.map((field) => field.value));
    });
    this.resultsForm = form;
    this.notes.before(form);
    fields[0].focus();
  }

  endResults() {
    for (const each of this.resultsForm.querySelectorAll("textarea, button")) each.disabled = true;
  }
}

const decode = (value) => {
  try {
    return decodeURIComponent(value);
  } catch {
    return value; // the header of another server, which encodes otherwise
  }
};

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // a call that was cut off
  }
}

// Divides a text at its fences (```): code becomes a block of its own, the rest stays as it is.
export function parts(text) {
  const found = [];
  let lines = [];
  let isCode = false;
  const end = () => {
    const inside = lines.join("\n");
    if (isCode) found.push(el("pre", {}, el("code", {}, inside)));
    else if (inside.trim()) found.push(el("span", {}, inside));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (/^\s*```/.test(line)) {
      end();
      isCode = !isCode;
    } else lines.push(line);
  }
  end();
  return found;
}
