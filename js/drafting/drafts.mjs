// All draft switches of the graph at once: "Drafts", "Finals", and "Queue a draft".

import {
  asOneStep,
  chain,
  deciding,
  everyNode,
  nodesOf,
  notify,
  queue,
  setWidget,
  SHEET,
  SWITCH,
} from "../graph.js";
import { listen, load } from "../load.js";
import { watch } from "../watch.js";

const { withoutPicks } = await load("contact_sheet");
const { hold, holder, numbersNow, recordOf, release, untouched, withFreeSeeds } = await load("seeds");

const HOLDER = "finals"; // of the last draft's seeds
let queueingDraft = false;
let lastDraft; // {prompt, id of the node that shows it}
let remembering; // a promise: the server is asked for it
let afterQueueing = new Map(); // the graph's numbers: what differs later, the user changed

listen("promptQueued", () => (afterQueueing = numbersNow()));
listen("executed", ({ detail }) => (remembering = rememberDraft(detail)));

/** Let the top bar show what there is and how the switches stand when this node comes, goes or changes. */
export function follow(node) {
  if (node.comfyClass === SWITCH) watch(node, () => switches().map(isOn).join(), showButtons);
  // after it took place
  for (const event of ["onAdded", "onRemoved"]) chain(node, event, () => setTimeout(showButtons));
  showButtons();
}

/** {node, widget} that turn the switches of the graph. */
const switches = () =>
  [...everyNode()]
    .filter(([, { comfyClass }]) => comfyClass === SWITCH)
    .map(([, node, around]) => deciding(node, "use_final", around))
    .filter(Boolean);

const isOn = ({ widget }) => widget.value;

/** The top bar's buttons are only there for graphs with drafts (ddim.css); the active one says so. */
function showButtons() {
  const found = switches();
  const finals = found.filter(isOn).length;
  document.body.classList.toggle("ddim-has-switch", found.length > 0);
  document.body.classList.toggle("ddim-has-drafts", found.length + nodesOf(SHEET).length > 0);
  for (const [name, active] of [
    ["drafts", found.length > 0 && finals === 0],
    ["finals", found.length > 0 && finals === found.length],
  ]) {
    document.body.classList.toggle(`ddim-on-${name}`, active);
    document.querySelector(`.ddim-to-${name}`)?.setAttribute("aria-pressed", active);
  }
}

const saysNone = () => notify("warn", "No draft switch", "No DDIM Draft Switch can be turned in this graph.");

/** Finals are those of the last draft, unless the user changed a seed since. */
export async function turnAll(useFinal) {
  if (!switches().length) return saysNone();
  await remembering;
  asOneStep(() => {
    release(HOLDER);
    if (useFinal && lastDraft && untouched(lastDraft.prompt, afterQueueing))
      hold(HOLDER, lastDraft.prompt, lastDraft.id, false);
    switches().forEach(({ node, widget }) => setWidget(node, widget, useFinal));
  });
  showButtons();
}

/** Do something while every switch says so, then turn them back. */
export async function turned(useFinal, action) {
  const before = switches().map((each) => [each, isOn(each)]);
  before.forEach(([{ node, widget }]) => setWidget(node, widget, useFinal));
  try {
    await action();
  } finally {
    before.forEach(([{ node, widget }, value]) => setWidget(node, widget, value));
  }
}

/** Finals if any switch stands on draft, otherwise drafts. */
export function flip() {
  return turnAll(!switches().every(isOn));
}

export async function queueDraft() {
  if (queueingDraft) return;
  if (!nodesOf(SHEET).length && !switches().length) return saysNone();
  queueingDraft = true;
  try {
    await withFreeSeeds(() => withoutPicks(() => turned(false, queue)));
  } finally {
    queueingDraft = false;
  }
}

/** A run that showed pictures while a switch stood on draft: "Finals" finishes it. */
async function rememberDraft({ output, prompt_id, display_node, node }) {
  if (!output?.images?.length || !nodesOf(SWITCH).length) return;
  const { prompt } = (await recordOf(prompt_id)) ?? {};
  const drafted = Object.values(prompt ?? {}).some(
    ({ class_type, inputs }) => class_type === SWITCH && inputs.use_final === false,
  );
  if (!drafted) return;
  lastDraft = { prompt, id: String(display_node ?? node) };
  if (holder() === HOLDER) hold(HOLDER, prompt, lastDraft.id, false);
}
