// "Finish this one": from a picture that a draft gave, load its seed into the graph and queue the final.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { turnAll } from "./drafts.js";
import { asOneStep, everyNode, linkedSlot, notify, setWidget, widgetOf } from "./graph.js";

const COMMAND = "DDIMToolkit.Finish";
// execution id of a node -> {prompt, images} of the last run that gave it pictures
const pictures = new Map();

app.registerExtension({
  name: "DDIMToolkit.Finish",
  commands: [
    {
      id: COMMAND,
      label: "Finish this one: the draft's seed, as a final",
      icon: "pi pi-check-circle",
      function: finishSelected,
    },
  ],
  keybindings: [{ commandId: COMMAND, combo: { key: "Enter", alt: true, shift: true } }],
  menuCommands: [{ path: ["Edit", "DDIM drafts"], commands: [COMMAND] }],
  getNodeMenuItems: (node) =>
    draftOf(node) ? [{ content: "Finish this one", callback: () => finish(node) }] : [],
  getSelectionToolboxCommands: (item) => (draftOf(item) ? [COMMAND] : []),
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      if (!detail?.output?.images?.length) return;
      pictures.set(String(detail.display_node ?? detail.node), {
        prompt: detail.prompt_id,
        images: detail.output.images,
      });
    });
  },
});

/**
 * The run behind the pictures that a node shows; undefined without pictures or without a switch in the graph.
 */
function draftOf(node) {
  if (!document.body.classList.contains("ddim-has-switch")) return;
  const id = [...everyNode()].find(([, each]) => each === node)?.[0];
  const run = pictures.get(id);
  const shown = app.nodeOutputs?.[id]?.images?.[0]; // another open workflow may have a node of the same id
  if (!run || (shown && shown.filename !== run.images[0].filename)) return;
  return run;
}

function finishSelected() {
  const selected = Object.values(app.canvas.selected_nodes ?? {}).filter(draftOf);
  const node =
    selected[0] ??
    [...everyNode()]
      .map(([, each]) => each)
      .filter(draftOf)
      .at(-1);
  if (node) return finish(node);
  notify(
    "warn",
    "No picture of a draft",
    "Queue a draft first, then select the node that shows its picture.",
  );
}

async function finish(node) {
  const run = draftOf(node);
  const history = run && (await (await api.fetchApi(`/history/${run.prompt}`)).json());
  const prompt = history?.[run.prompt]?.prompt?.[2];
  if (!prompt) return notify("warn", "No record of that draft", "The server's history no longer holds it.");
  const changed = asOneStep(() => {
    const count = loadSeeds(prompt);
    turnAll(true);
    return count;
  });
  notify(
    "info",
    "Finishing this one",
    changed ? "Its seed is loaded and held (fixed)." : "No seed in this graph belongs to it.",
  );
  await app.queuePrompt(0, 1);
}

/** Give the graph's seeds the values of a queued prompt, and hold them there; how many there were. */
function loadSeeds(prompt) {
  let count = 0;
  for (const [id, node] of everyNode()) {
    const queued = prompt[id];
    if (!queued || queued.class_type !== node.comfyClass) continue;
    for (const widget of node.widgets ?? []) {
      if (!isSeed(widget) || typeof queued.inputs[widget.name] !== "number") continue;
      const [owner, seed] = origin(node, widget);
      setWidget(owner, seed, queued.inputs[widget.name]);
      const control = widgetOf(owner, "control_after_generate");
      if (control) setWidget(owner, control, "fixed");
      count += 1;
    }
  }
  return count;
}

const isSeed = (widget) =>
  /(^|_)seed$/.test(widget.name) ||
  widget.linkedWidgets?.some((each) => each.name === "control_after_generate");

/**
 * The node and widget that hold a seed: a Primitive node's where one feeds it (the queue sees its value
 * inline).
 */
function origin(node, widget) {
  const slot = linkedSlot(node, widget.name);
  const from = slot >= 0 ? node.getInputNode(slot) : undefined;
  return from?.widgets?.length ? [from, from.widgets[0]] : [node, widget];
}
