// The chat: a conversation, and the answer that is being written.

import { PATHS, isReady, stream } from "./api.js";
import { $, number } from "./dom.js";
import { MessageView } from "./message.js";
import { isDecided } from "./models.js";
import { readSettings } from "./settings.js";

const KEPT = "flaxen.conversation"; // in the tab's storage, so that it outlives a reload
let turns = []; // { message: as the API has it, view }
let running = null; // the AbortController of the answer that is being written

export function startChat() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("again").addEventListener("click", regenerate);
  $("edit").addEventListener("click", editLast);
  $("clear").addEventListener("click", () => cut(0));
  restore();
  showButtons();
}

// Shows the conversation that the tab had before the page was loaded again.
function restore() {
  for (const message of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) {
    const view = new MessageView(message.role);
    if (message.reasoning) view.addReasoning(message.reasoning);
    if (turns.at(-1)?.message.tool_calls) turns.at(-1).view.endResults();
    add(message, view);
    if (message.tool_calls) askResults(message, view);
  }
}

function store() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(turns.map(({ message }) => message)));
  } catch {
    sessionStorage.removeItem(KEPT); // it is too long: nothing is better than an old one
  }
}

function send() {
  const text = $("prompt").value;
  if (running || !text.trim()) return;
  const open = turns.at(-1)?.message.tool_calls;
  if (open) {
    turns.at(-1).view.resultsForm.querySelector("textarea").focus();
    return;
  }
  const settings = settingsOrProblem();
  if (!settings) return;
  $("prompt").value = "";
  add({ role: "user", content: text });
  answer(settings);
}

function regenerate() {
  const settings = settingsOrProblem();
  if (!settings) return;
  if (turns.at(-1).message.role === "assistant") cut(turns.length - 1);
  answer(settings);
}

function editLast() {
  const last = turns.findLastIndex(({ message }) => message.role === "user");
  $("prompt").value = turns[last].message.content;
  cut(last);
  $("prompt").focus();
}

function add(message, view = new MessageView(message.role)) {
  view.finish(message.content ?? "");
  if (!view.element.isConnected) $("log").append(view.element);
  turns.push({ message, view });
  store();
}

function cut(length) {
  for (const { view } of turns.splice(length)) view.element.remove();
  for (const each of $("log").querySelectorAll("article.failed")) each.remove();
  store();
  showButtons();
}

function settingsOrProblem() {
  try {
    if (!isReady()) throw new Error("This server needs an API key: give it above.");
    return readSettings();
  } catch (error) {
    failed(error);
    return null;
  }
}

// Shows why there is no answer. It is no part of the conversation, and goes with the next try.
function failed(error) {
  for (const each of $("log").querySelectorAll("article.failed")) each.remove();
  const view = new MessageView("failed", "Error");
  view.finish(error.message, { canCopy: false });
  $("log").append(view.element);
  follow(true);
}

async function answer(settings) {
  for (const each of $("log").querySelectorAll("article.failed")) each.remove();
  const view = new MessageView("assistant", settings.fields.model);
  $("log").append(view.element);
  running = new AbortController();
  $("log").setAttribute("aria-busy", "true");
  showButtons();
  follow(true);
  const message = { role: "assistant", content: "" };
  try {
    await read(settings, message, view, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
    else view.addNote("Stopped.");
  }
  running = null;
  $("log").setAttribute("aria-busy", "false");
  keep(message, view);
  showButtons();
  follow();
}

// Adds what came of an answer to the conversation.
function keep(message, view) {
  if (!message.content && !message.reasoning && !message.tool_calls) {
    view.element.remove();
    return;
  }
  add(message, view);
  if (message.tool_calls) askResults(message, view);
}

function askResults({ tool_calls: calls }, view) {
  view.askResults(calls, (results) => {
    const settings = settingsOrProblem();
    results.forEach((content, index) => {
      const id = calls[index].id;
      add({ role: "tool", tool_call_id: id, content }, new MessageView("tool"));
    });
    if (settings) answer(settings);
  });
}

// Reads the events of an answer into the message and its view.
async function read(settings, message, view, signal) {
  const begin = performance.now();
  const [path, body] = request(settings);
  const headers = isDecided(body.model) ? { "x-vsr-debug": "true" } : {};
  const { headers: told, events } = await stream(path, body, { signal, headers });
  view.addDecision(told);
  let first = 0;
  let usage = null;
  let reason = null;
  const calls = [];
  try {
    for await (const event of events) {
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      if (!choice) continue;
      reason = choice.finish_reason ?? reason;
      const delta = choice.delta ?? { content: choice.text };
      const thought = delta.reasoning ?? delta.reasoning_content;
      if (thought || delta.content || delta.tool_calls) first ||= performance.now();
      if (thought) {
        message.reasoning = (message.reasoning ?? "") + thought;
        view.addReasoning(thought);
      }
      if (delta.content) {
        message.content += delta.content;
        view.addText(delta.content);
      }
      for (const piece of delta.tool_calls ?? []) addPiece(calls, piece);
      follow();
    }
  } finally {
    // A call that was cut off can't be answered.
    if (calls.length && reason) message.tool_calls = calls;
    else if (calls.length) view.addNote("A call of a tool was not complete, and is left out.");
  }
  if (reason === "length") view.addNote("Cut off at the most tokens.", "warning");
  if (usage) view.addNote(speed(usage, begin, first, performance.now()));
}

// Puts a piece of a call to what came of it before.
function addPiece(calls, piece) {
  const call = (calls[piece.index] ??= { id: piece.id, type: "function", function: { name: "", arguments: "" } });
  call.function.name ||= piece.function?.name ?? "";
  call.function.arguments += piece.function?.arguments ?? "";
}

function request({ isChat, system, fields }) {
  const body = { ...fields, stream: true, stream_options: { include_usage: true } };
  if (!isChat) {
    const prompt = turns.map(({ message }) => message.content).join("");
    return [PATHS.completions, { ...body, prompt }];
  }
  // Reasoning belongs to the question that it is about: models see it until the next one.
  const last = turns.findLastIndex(({ message }) => message.role === "user");
  const messages = turns.map(({ message: { reasoning, ...rest } }, index) =>
    reasoning && index > last ? { ...rest, reasoning } : rest);
  if (system) messages.unshift({ role: "system", content: system });
  return [PATHS.chat, { ...body, messages }];
}

function speed(usage, begin, first, end) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const rate = ((usage.completion_tokens - 1) / (end - first)) * 1000;
  const told = [`${number(usage.prompt_tokens)} tokens in${cached ? ` (${number(cached)} cached)` : ""}`];
  told.push(`${number(usage.completion_tokens)} out`);
  if (first) told.push(`first after ${number((first - begin) / 1000, 2)} s`);
  if (first && rate > 0) told.push(`${number(rate, 1)} tokens/s`);
  return told.join(", ");
}

function showButtons() {
  const isEmpty = !turns.length;
  const hasUser = turns.some(({ message }) => message.role === "user");
  $("send").disabled = running !== null;
  $("stop").disabled = running === null;
  $("again").disabled = $("clear").disabled = running !== null || isEmpty;
  $("edit").disabled = running !== null || !hasUser;
}

// Keeps the end in sight, unless the reader has scrolled up.
function follow(always = false) {
  const log = $("log");
  if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
}
