// What the server does now: requests, tokens per second, the KV cache, and what is in memory.

import { PATHS, get } from "./api.js";
import { drawLines } from "./chart.js";
import { $, el, every, number } from "./dom.js";
import { Metrics } from "./metrics.js";
import { loadModels } from "./models.js";

const EVERY_S = 2;
const KEPT_S = 300; // of the chart
const history = { in: [], out: [] }; // points [seconds, tokens per second]
let before = null;

// Shows the status until what it returns is called.
export function startStatus() {
  before = null;
  loadModels().catch(() => {}); // the metrics below say what is wrong
  return every(EVERY_S, showStatus);
}

async function showStatus() {
  const metrics = new Metrics(await get(PATHS.metrics));
  const now = { seconds: performance.now() / 1000, metrics };
  const rates = before ? { in: rate("prompt_tokens_total", now), out: rate("generation_tokens_total", now) } : {};
  before = now;
  for (const [name, value] of Object.entries(rates)) {
    if (value === undefined) continue;
    history[name].push([now.seconds, value]);
    while (history[name][0][0] < now.seconds - KEPT_S) history[name].shift();
  }
  $("numbers").replaceChildren(...facts(metrics, rates));
  const lines = [
    { name: "generated", points: history.out },
    { name: "of prompts, with those from the cache", points: history.in },
  ];
  const formatX = (x) => (now.seconds - x < 1 ? "now" : `${number(now.seconds - x)} s ago`);
  drawLines($("speed"), lines, { label: "Tokens per second", formatX, fromZero: true });
}

// A counter's growth a second. It begins anew with the server, and grows from 0 then.
function rate(name, now) {
  const value = now.metrics.sum(name);
  if (value === undefined) return undefined;
  const old = before.metrics.sum(name) ?? 0;
  return (value < old ? value : value - old) / (now.seconds - before.seconds);
}

function facts(metrics, rates) {
  const queries = metrics.sum("prefix_cache_queries_total");
  const drafts = metrics.sum("spec_decode_num_draft_tokens_total");
  const host = metrics.sum("kv_offload_host_bytes");
  const kv = metrics.most("kv_cache_usage_perc");
  const used = metrics.sum("models_memory_bytes");
  const open = metrics.sum("llm_router_requests_open");
  const waiting = (metrics.sum("num_requests_waiting") ?? 0) + (metrics.sum("model_requests_waiting") ?? 0);
  const running = metrics.sum("num_requests_running");
  const found = running === undefined ? [] : [ // a router alone has no engine
    ["Tokens/s generated", number(rates.out, 1)],
    ["Tokens/s of prompts", number(rates.in, 1)],
    ["Sequences running", number(running)],
    ["Waiting", number(waiting)],
  ];
  if (kv !== undefined) found.push(["KV cache in use", percent(kv), meter(kv)]);
  if (queries) found.push(["Prompts from the cache", percent(metrics.sum("prefix_cache_hits_total") / queries)]);
  if (host !== undefined) {
    found.push(["From stored pages", percent((metrics.sum("external_prefix_cache_hits_total") ?? 0) / (queries || 1))]);
    found.push(["Stored pages", `${gib(host)} + ${gib(metrics.sum("kv_offload_disk_bytes"))} GiB`]);
  }
  if (drafts) {
    found.push(["Drafts accepted", percent(metrics.sum("spec_decode_num_accepted_tokens_total") / drafts)]);
  }
  if (used !== undefined) {
    const limit = metrics.sum("models_memory_limit_bytes");
    found.push(["Memory of models", `${gib(used)} of ${gib(limit)} GiB`, meter(used / limit)]);
  }
  if (open !== undefined) found.push(["Requests at the router", number(open)]);
  return found.map(([name, ...value]) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value)));
}

const percent = (share) => `${number(share * 100, 1)} %`;
const gib = (bytes) => number(bytes / 2 ** 30, 1);
const meter = (value) => el("meter", { min: 0, max: 1, value, "aria-hidden": "true" });
