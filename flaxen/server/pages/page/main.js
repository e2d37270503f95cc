// Begins: shows one part of the page at a time, by the address's #name, and asks only for that.

import { isReady, startKey } from "./api.js";
import { startChat } from "./chat.js";
import { $, showProblem } from "./dom.js";
import { startJobs } from "./jobs.js";
import { loadModels } from "./models.js";
import { startPreview, startRouter } from "./router.js";
import { startSettings } from "./settings.js";
import { startStatus } from "./status.js";

const PARTS = { chat: null, status: startStatus, jobs: startJobs, router: startRouter, api: null };
let end = () => {};

const linkTo = (part) => document.querySelector(`nav a[href="#${part}"]`);

function showPart() {
  const asked = location.hash.slice(1);
  const offered = Object.keys(PARTS).filter((part) => !linkTo(part).hidden);
  const name = offered.includes(asked) ? asked : offered[0];
  end();
  for (const part of Object.keys(PARTS)) {
    $(part).hidden = part !== name;
    if (part === name) linkTo(part).setAttribute("aria-current", "page");
    else linkTo(part).removeAttribute("aria-current");
  }
  end = (isReady() && PARTS[name]?.()) || (() => {});
  if (name === "chat") $("prompt").focus();
}

async function begin() {
  showPart();
  if (!isReady()) return $("key").focus();
  try {
    await loadModels();
    if (location.hash === "#router") showPart(); // only now it is known whether there is one
  } catch (error) {
    showProblem(error.message);
  }
}

startSettings();
startChat();
startPreview();
startKey(begin);
addEventListener("hashchange", showPart);
begin();
