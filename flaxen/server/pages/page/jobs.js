// Fine-tuning jobs, and the loss of one of them step by step.

import { PATHS, get, isReady } from "./api.js";
import { drawLines } from "./chart.js";
import { $, button, el, every, number, table } from "./dom.js";

const EVERY_S = 2;
const MOST_PAGES = 20; // of a thousand events
const ENDED = ["succeeded", "failed", "cancelled"];
let shown = null; // the id of the job that is looked at
let endJob = () => {};

// Shows the jobs, and the newest one, until what it returns is called.
export function startJobs() {
  if (document.body.dataset.jobs !== "true") {
    const told = "Fine-tuning is off. Started with --data-dir DIR, the server trains adapters beside its requests.";
    $("job-list").replaceChildren(el("p", { class: "quiet" }, told));
    return () => {};
  }
  const endList = every(15, showList);
  return () => {
    endList();
    endJob();
  };
}

async function showList() {
  if (!isReady()) return;
  const jobs = (await get(`${PATHS.jobs}?limit=50`)).data;
  if ($("jobs").hidden) return; // nobody looks any more
  if (!jobs.length) {
    $("job-list").replaceChildren(el("p", { class: "quiet" }, "There are no jobs yet."));
    return;
  }
  const rows = jobs.map((job) => [
    button(job.id, () => showJob(job.id), { class: "link", "aria-pressed": String(job.id === shown) }),
    job.status,
    el("code", {}, job.fine_tuned_model ?? job.model),
    new Date(job.created_at * 1000).toLocaleString(),
  ]);
  $("job-list").replaceChildren(table(["Job", "Status", "Model", "Created"], rows));
  showJob(jobs.some((job) => job.id === shown) ? shown : jobs[0].id);
}

function showJob(id) {
  endJob();
  if (id !== shown) $("job").replaceChildren();
  shown = id;
  for (const each of $("job-list").querySelectorAll("button")) {
    each.setAttribute("aria-pressed", String(each.textContent === id));
  }
  const events = new Map(); // by id
  endJob = every(EVERY_S, async () => {
    const job = await get(`${PATHS.jobs}/${encodeURIComponent(id)}`);
    const checkpoints = await get(`${PATHS.jobs}/${encodeURIComponent(id)}/checkpoints?limit=1000`);
    await addEvents(id, events);
    if (id !== shown) return;
    drawJob(job, [...events.values()], checkpoints.data);
    if (ENDED.includes(job.status)) endJob();
  });
}

// Adds the events that are not there yet; the newest come first.
async function addEvents(id, events) {
  const path = `${PATHS.jobs}/${encodeURIComponent(id)}/events`;
  const limit = events.size ? 100 : 1000;
  let after = "";
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const { data, has_more: hasMore } = await get(`${path}?limit=${limit}${after}`);
    const isKnown = data.some((event) => events.has(event.id));
    for (const event of data) events.set(event.id, event);
    if (isKnown || !hasMore) return;
    after = `&after=${data.at(-1).id}`;
  }
}

function drawJob(job, events, checkpoints) {
  const steps = events.filter((event) => event.type === "metrics").map((event) => event.data);
  steps.sort((a, b) => a.step - b.step);
  const line = (name, key, more = {}) => {
    const points = steps.filter((each) => Number.isFinite(each[key])).map((each) => [each.step, each[key]]);
    return { name, points, ...more };
  };
  const last = steps.at(-1);
  if (!$("job").firstChild) {
    $("job").append(el("h3", {}), el("p", {}), el("div", { class: "chart" }), el("div", { class: "wide" }));
  }
  const [heading, facts, chart, more] = $("job").children;
  heading.textContent = job.id;
  facts.textContent = summary(job, last);
  facts.className = job.error ? "warning" : "quiet";
  const lines = [line("training loss", "train_loss"), line("validation loss", "valid_loss", { isDotted: true })];
  const formatX = (x) => `step ${number(x)}`;
  drawLines(chart, lines.filter(({ points }, index) => points.length || !index), { label: "Loss by step", formatX });
  const rows = checkpoints.map((each) => [
    number(each.step_number),
    el("code", {}, each.fine_tuned_model_checkpoint),
    number(each.metrics.train_loss, 3),
    number(each.metrics.valid_loss, 3),
  ]);
  more.replaceChildren(...(rows.length ? [table(["Step", "Served as", "Training loss", "Validation loss"], rows)] : []));
}

function summary(job, last) {
  const told = [job.status, `${job.method.type} of ${job.model}`];
  if (job.lora) told.push(`rank ${job.lora.rank}`);
  if (last) told.push(`step ${number(last.step)} of ${number(last.total_steps)}, loss ${number(last.train_loss, 3)}`);
  if (job.estimated_finish) told.push(`ends about ${new Date(job.estimated_finish * 1000).toLocaleTimeString()}`);
  if (job.error) told.push(job.error.message);
  return told.join(" · ");
}
