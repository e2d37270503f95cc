// The settings of the chat, read into the fields of a request. A wrong one is an Error that names it.

import { $ } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

export function startSettings() {
  const form = $("settings-form");
  form.addEventListener("submit", (event) => event.preventDefault());
  $("settings").open = matchMedia("(min-width: 60rem)").matches;
  $("mode").value = document.body.dataset.chats === "true" ? "chat" : "continue";
  const showWhatCounts = () => {
    const isChat = $("mode").value === "chat";
    for (const id of ["system", "tools", "tool_choice"]) $(id).closest("label").hidden = !isChat;
    $("schema-label").hidden = $("format").value !== "json_schema";
  };
  form.addEventListener("change", showWhatCounts);
  showWhatCounts();
}

// Returns whether the model continues a text, the system prompt, and fields of the request.
export function readSettings() {
  const form = $("settings-form");
  if (!form.checkValidity()) {
    $("settings").open = true;
    form.reportValidity();
    const wrong = form.querySelector(":invalid");
    throw new Error(`${nameOf(wrong)}: ${wrong.validationMessage}`);
  }
  const isChat = $("mode").value === "chat";
  const fields = {};
  if ($("model").value) fields.model = $("model").value;
  for (const id of NUMBERS) if ($(id).value !== "") fields[id] = Number($(id).value);
  const stops = $("stops").value.split("\n").filter((line) => line !== "");
  if (stops.length) fields.stop = stops.map((line) => line.replaceAll("\\n", "\n"));
  const format = readFormat();
  if (format) fields.response_format = format;
  const tools = isChat ? readJson("tools") : null;
  if (tools !== null) {
    if (!Array.isArray(tools)) throw new Error("Tools: they must be a list, [{…}]");
    if (tools.length) Object.assign(fields, { tools, tool_choice: $("tool_choice").value });
  }
  return { isChat, system: isChat ? $("system").value : "", fields };
}

function readFormat() {
  const type = $("format").value;
  if (type === "text") return null;
  if (type === "json_object") return { type };
  const schema = readJson("schema");
  if (schema === null) throw new Error("JSON schema: it is empty");
  return { type, json_schema: { name: "answer", schema, strict: true } };
}

// The JSON in a field; null where it is empty.
function readJson(id) {
  const text = $(id).value.trim();
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    $("settings").open = true;
    $(id).focus();
    throw new Error(`${nameOf($(id))}: this is not JSON: ${error.message}`);
  }
}

const nameOf = (field) => field.closest("label").firstChild.textContent.trim();
