// The page imports every .js file of a pack when it opens. What only some graphs need is .mjs in drafting/,
// and comes with the first node that needs it.

import { api } from "../../scripts/api.js";
import { notify } from "./graph.js";

// The host forbids browsers to keep .js files, and no others: under an address of its own for each opened
// page no module is of an older pack than the files beside it.
const OPENED = Date.now();
const MODULES = ["seeds", "sheet_runs", "sheet_view", "contact_sheet", "drafts", "finish"];
const EVENTS = ["promptQueued", "execution_start", "ddim_toolkit.cells", "executed"];
const AGAIN = 1000; // ms
export const MISSING = "Files of the page did not come from the server. Reload it.";

const modules = new Map(); // promises of them, by name
const missed = []; // events of runs that took place before the modules were there
let all;

/** A promise of a module of drafting/. They load each other with it, too. */
export function load(name) {
  if (!modules.has(name)) modules.set(name, get(name));
  return modules.get(name);
}

/**
 * Browsers keep what went wrong at an address, so a second try has another one. Modules do nothing before all
 * that they need is there.
 */
async function get(name) {
  const address = `./drafting/${name}.mjs?${OPENED}`;
  try {
    return await import(address);
  } catch {
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
    return import(`${address}-again`);
  }
}

/** A promise of all of them by name, at once; of undefined where one of them does not come. */
export function loadAll() {
  all ??= keepEvents(Promise.all(MODULES.map(load))).then(
    (loaded) => Object.fromEntries(loaded.map((module, i) => [MODULES[i], module])),
    () => tellThatNoneIsThere(),
  );
  return all;
}

export const tellThatNoneIsThere = () => notify("error", "Drafts and contact sheets do not work", MISSING);

async function keepEvents(promise) {
  const keep = (event) => missed.push(event);
  EVENTS.forEach((name) => api.addEventListener(name, keep));
  try {
    return await promise;
  } finally {
    EVENTS.forEach((name) => api.removeEventListener(name, keep));
    missed.length = 0;
  }
}

/** Listen to the server, and hear what was missed. */
export function listen(name, listener) {
  api.addEventListener(name, listener);
  missed.filter(({ type }) => type === name).forEach(listener);
}
