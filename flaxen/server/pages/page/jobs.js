// Fine-tuning jobs, and the loss of one of them step by step.

import { PATHS, get, isReady } from "./api.js";
import { drawLines } from "./chart.js";
import { $, button, el, every, number, table } from "./dom.js";

const EVERY_S = 2;
const MOST_PAGES = 20; // of a thousand events
const ENDED = ["succeeded", "failed", "cancelled"];
let shown = null; // the id of the job that is looked at
let events = new Map(); // its own, by id
let isWhole = false; // whether it has ended, and all of it is drawn
let endJob = null; // ends asking for it; null where nobody asks

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
    leaveJob();
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

function leaveJob() {
  endJob?.();
  endJob = null;
}

function showJob(id) {
  if (id !== shown) {
    leaveJob();
    $("job").replaceChildren();
    [shown, events, isWhole] = [id, new Map(), false];
  }
  for (const each of $("job-list").querySelectorAll("button")) {
    each.setAttribute("aria-pressed", String(each.textContent === id));
  }
  if (isWhole || endJob) return;
  const mine = events;
  endJob = every(EVERY_S, async () => {
    const job = await get(`${PATHS.jobs}/${encodeURIComponent(id)}`);
    const checkpoints = await get(`${PATHS.jobs}/${encodeURIComponent(id)}/checkpoints?limit=1000`);
    await addEvents(id, mine);
    if (mine !== events) return; // another job is looked at
    drawJob(job, [...mine.values()], checkpoints.data);
    isWhole = ENDED.includes(job.status);
    if (isWhole) leaveJob();
  });
}

// Adds the events that are not there yet; the newest come first. None where asking fails, as nobody
// would ask for those behind a known one.
async function addEvents(id, known) {
  const path = `${PATHS.jobs}/${encodeURIComponent(id)}/events`;
  const limit = known.size ? 100 : 1000;
  const found = [];
  let after = "";
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const { data, has_more: hasMore } = await get(`${path}?limit=${limit}${after}`);
    found.push(...data);
    if (!hasMore || data.some((event) => known.has(event.id))) break;
    after = `&after=${data.at(-1).id}`;
  }
  for (const event of found) known.set(event.id, event);
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
