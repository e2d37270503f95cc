// Requests to the server that this page is from: its routes, the API key, errors, streams of events.

import { $, showProblem } from "./dom.js";

export const PATHS = {
  chat: "/v1/chat/completions",
  completions: "/v1/completions",
  models: "/v1/models",
  metrics: "/metrics",
  jobs: "/v1/fine_tuning/jobs",
  preview: "/api/v1/routing/preview",
  decisions: "/api/v1/routing/decisions",
};

const ROOT = new URL("..", import.meta.url); // the server may be below a path of a proxy
const KEY = "flaxen-api-key";

const key = () => sessionStorage.getItem(KEY) ?? "";

// Whether requests make sense: a server that needs a key has been given one.
export const isReady = () => document.body.dataset.key !== "true" || key() !== "";

// Shows the field for the key where one is needed; `onKey` is called when there is a new one.
export function startKey(onKey) {
  $("key-form").hidden = document.body.dataset.key !== "true";
  $("key").value = key();
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key").value.trim());
    showProblem("");
    onKey();
  });
}

// Returns the whole answer's text, parsed if it is JSON.
export async function get(path) {
  const response = await ask(path, {});
  return response.headers.get("content-type").startsWith("application/json")
    ? response.json()
    : response.text();
}

export async function post(path, body) {
  return (await ask(path, { method: "POST", body: JSON.stringify(body) })).json();
}

// Returns the headers of a streamed answer, and its events, parsed.
export async function stream(path, body, { signal, headers }) {
  const response = await ask(path, { method: "POST", body: JSON.stringify(body), signal, headers });
  return { headers: response.headers, events: events(response.body) };
}

async function ask(path, { headers = {}, ...options }) {
  const sent = { ...headers };
  if (options.body) sent["content-type"] = "application/json";
  if (key()) sent.authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(new URL(`.${path}`, ROOT), { ...options, headers: sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Does it still run?");
  }
  if (response.ok) return response;
  if (response.status === 401) $("key-form").hidden = false;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error?.message ?? `the server answered with status ${response.status}`);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((each) => each.startsWith("data:"));
      if (!line) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
