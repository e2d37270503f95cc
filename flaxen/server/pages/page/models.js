// The models, adapters and names that are decided: what may be chosen, and a table of them.

import { PATHS, get } from "./api.js";
import { $, el, number, table } from "./dom.js";

let models = [];

export const isDecided = (name) => models.some((each) => each.id === name && isEntrypoint(each));
const isEntrypoint = (model) => model.routing?.resolution === "virtual";

// Asks for the models, and shows them. What was chosen stays chosen.
export async function loadModels() {
  models = (await get(PATHS.models)).data;
  const groups = new Map();
  for (const each of models) {
    const name = isEntrypoint(each)
      ? "Decided by the router"
      : each.parent ? `Adapters of ${each.parent}` : "Models";
    groups.set(name, [...(groups.get(name) ?? []), each]);
  }
  const options = [...groups].map(([label, members]) => el("optgroup", { label }, ...asOptions(members)));
  fill($("model"), options);
  const entrypoints = models.filter(isEntrypoint);
  fill($("preview-model"), asOptions(entrypoints));
  document.querySelector('nav a[href="#router"]').hidden = !entrypoints.length;
  $("models").replaceChildren(table(["Name", "Kind", "State", "Longest", "Weights"], models.map(row)));
}

const asOptions = (members) => members.map((each) => el("option", { value: each.id }, each.id));

function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options);
  if ([...select.options].some((each) => each.value === chosen)) select.value = chosen;
}

function row(model) {
  const kind = isEntrypoint(model)
    ? `decided (${model.routing.recipe})`
    : model.parent ? `adapter of ${model.parent}` : "model";
  const state = model.status?.error ?? model.status?.value ?? (isEntrypoint(model) ? "" : "loaded");
  const longest = model.max_model_len ? `${number(model.max_model_len)} tokens` : "";
  const version = model.weights_version === undefined ? "" : `version ${model.weights_version}`;
  return [el("code", {}, model.id), kind, state, longest, version];
}
