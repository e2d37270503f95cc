// The router: what it decided lately, its counters, and how it would decide a message.

import { PATHS, get, post } from "./api.js";
import { $, el, every, number, table } from "./dom.js";
import { Metrics } from "./metrics.js";

const EVERY_S = 3;
// Counters, with the labels that tell their samples apart.
const COUNTED = [
  ["Decisions", "llm_decision_match_total", ["decision_name"]],
  ["Models", "llm_model_selection_total", ["model", "method"]],
  ["Signals that matched", "llm_signal_match_total", ["signal_type", "signal_name"]],
  ["Signals that were unknown", "llm_signal_unknown_total", ["signal_type", "signal_name"]],
  ["Not fully classified", "llm_unclassified_requests_total", ["reason"]],
  ["Errors of the router", "llm_request_errors_total", ["reason"]],
];

// Shows the router's work until what it returns is called.
export const startRouter = () => every(EVERY_S, showWork);

export function startPreview() {
  $("preview").addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = {
      text: $("preview-text").value,
      model: $("preview-model").value,
      options: { include_explanation: true },
    };
    try {
      $("previewed").replaceChildren(...previewed(await post(PATHS.preview, body)));
    } catch (error) {
      $("previewed").replaceChildren(el("p", { class: "warning" }, error.message));
    }
  });
  $("preview-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("preview").requestSubmit();
  });
}

async function showWork() {
  const [{ data }, page] = await Promise.all([get(PATHS.decisions), get(PATHS.metrics)]);
  const rows = data.map((each) => [
    new Date(each.time * 1000).toLocaleTimeString(),
    each.requested_model,
    each.decision || "none",
    each.model || each.path,
    each.reason,
    each.warnings.join(", "),
    `${number(each.decide_ms, 2)} ms`,
  ]);
  const headings = ["Time", "Asked", "Decision", "Answered by", "Why", "Warnings", "Deciding took"];
  $("decided").replaceChildren(rows.length ? table(headings, rows) : nothing());
  $("counted").replaceChildren(...counted(new Metrics(page)));
}

const nothing = () => el("p", { class: "quiet" }, "Nothing yet.");

function counted(metrics) {
  const found = COUNTED.map(([heading, name, labels]) => {
    const sums = new Map(); // over the other labels
    for (const { labels: of, value } of metrics.all(name)) {
      const told = labels.map((each) => of[each] || "none").join(" · ");
      sums.set(told, (sums.get(told) ?? 0) + value);
    }
    const rows = [...sums].sort((a, b) => b[1] - a[1]).map(([told, sum]) => [told, number(sum)]);
    return rows.length ? el("div", {}, table([heading, "Requests"], rows)) : null;
  }).filter(Boolean);
  const mean = metrics.sum("llm_decision_evaluation_latency_seconds_sum") / metrics.sum("llm_decision_evaluation_latency_seconds_count");
  if (Number.isFinite(mean)) found.push(el("p", { class: "quiet" }, `Deciding took ${number(mean * 1000, 2)} ms on average.`));
  return found.length ? found : [nothing()];
}

function previewed(told) {
  const result = told.decision_result;
  const facts = [
    ["Decision", told.routing_decision || "none: the default model answers"],
    ["Model", told.selected_model || told.selection_status],
    ["Why", told.selection_reason],
    ["Recipe", told.recipe],
    ["Plugins", result?.plugins.join(", ")],
    ["Notes", told.notes.join("; ")],
    ["Not read", told.unread_content.join(", ")],
    ["Deciding took", `${number(told.metrics.decide_ms, 2)} ms`],
  ].filter(([, value]) => value);
  const list = facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  const signals = signalRows(told);
  return [
    el("dl", { class: "facts" }, ...list),
    signals.length ? table(["Signal", "Found", "Confidence or reason"], signals) : el("p", {}, "No signal was needed."),
    el("h3", {}, "Node by node"),
    el("ul", { class: "tree" }, ...told.eval_trace.map(decisionNode)),
  ];
}

function signalRows(told) {
  const matched = Object.entries(told.signal_confidences).map(([name, value]) => [name, "yes", number(value, 3)]);
  const failed = Object.entries(told.signal_errors).map(([name, reason]) => [name, "unknown", reason]);
  const others = Object.entries(told.decision_result?.unmatched_signals ?? {}).flatMap(([kind, names]) =>
    names.map((name) => [`${kind}:${name}`, "no", ""]));
  return [...matched, ...failed, ...others];
}

const decisionNode = ({ name, won, tree }) =>
  el("li", { class: won ? "won" : "" }, el("strong", {}, name), won ? " (it won)" : "",
    el("ul", {}, ...(tree ? [treeNode(tree)] : [el("li", {}, "matches every request")])));

function treeNode({ name, value, confidence, reason, children }) {
  const sure = confidence === null ? "" : ` at ${number(confidence, 3)}`;
  const item = el("li", {}, el("code", {}, name), " ", el("span", { class: `is-${value.replace(" ", "-")}` }, value), sure);
  if (reason) item.append(el("span", { class: "quiet" }, ` (${reason})`));
  if (children.length) item.append(el("ul", {}, ...children.map(treeNode)));
  return item;
}
