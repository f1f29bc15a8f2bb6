// "Finish": from a picture that a draft gave, load its seed into the graph and queue the final.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { everyNode, idOf, nodesOf, notify, queue, rootGraph, SWITCH } from "../graph.js";
import { listen, load } from "../load.js";
import { watch } from "../watch.js";

const { finishAllPicked } = await load("contact_sheet");
const { turned } = await load("drafts");
const { behind, recordOf, withSeeds } = await load("seeds");

const BUTTON = "Finish this one";
// execution id of a node -> {prompt, images} of the last run that gave it pictures
const pictures = new Map();

listen("executed", ({ detail }) => {
  if (!detail?.output?.images?.length) return;
  pictures.set(String(detail.display_node ?? detail.node), {
    prompt: detail.prompt_id,
    images: detail.output.images,
  });
});

for (const [, node] of everyNode()) follow(node);
app.registerExtension({
  name: "DDIMToolkit.Finish",
  getNodeMenuItems: (node) => (draftOf(node) ? [{ content: BUTTON, callback: () => finish(node) }] : []),
  getSelectionToolboxCommands: (item) => (draftOf(item) ? ["DDIMToolkit.Finish"] : []),
  nodeCreated: follow,
});

/** A button on the node itself, while it shows a draft. */
function follow(node) {
  if (!node.constructor.nodeData?.output_node) return;
  watch(
    node,
    () => Boolean(draftOf(node)),
    (shown) => showButton(node, shown),
  );
}

/**
 * The run behind the pictures that a node shows; undefined without pictures or without a switch in the graph.
 */
function draftOf(node) {
  if (!document.body.classList.contains("ddim-has-switch")) return;
  const id = idOf(node);
  const run = pictures.get(id);
  // another open workflow may have a node of the same id
  const inside = node.graph !== rootGraph();
  const shown = app.nodeOutputs?.[inside ? `${node.graph.id}:${node.id}` : id]?.images?.[0];
  if (!run || shown?.filename !== run.images[0].filename) return;
  return { ...run, id };
}

function showButton(node, shown) {
  const there = node.widgets?.find((widget) => widget.name === BUTTON);
  if (Boolean(there) === shown) return;
  if (there) node.removeWidget(there);
  else {
    const button = node.addWidget("button", BUTTON, null, () => finish(node), { serialize: false });
    button.serialize = false;
  }
  node.setDirtyCanvas(true, true);
}

/** What is picked on sheets, else what the selected node shows, else the last picture of a draft. */
export async function finishSelected() {
  if (await finishAllPicked()) return;
  const shown = [...everyNode()].map(([, node]) => node).filter(draftOf);
  const node = shown.find((each) => each.id in (app.canvas.selected_nodes ?? {})) ?? shown.at(-1);
  if (node) return finish(node);
  notify(
    "warn",
    "Nothing to finish",
    "Pick a draft on the contact sheet, or select a node that shows a draft.",
  );
}

async function finish(node) {
  const run = draftOf(node);
  const record = run && (await recordOf(run.prompt));
  if (!record) return notify("warn", "No record of that draft", "The server's history no longer holds it.");
  const number = run.images.length > 1 && node.imageIndex != null ? node.imageIndex : undefined;
  const problem = await withSeeds(record.prompt, run.id, () =>
    turned(true, () => (number === undefined ? queue() : queueOne(number))),
  );
  if (problem) return notify("warn", "Nothing was queued", problem);
  const what = number === undefined ? "Its final" : `Picture ${number + 1}`;
  notify("info", "Finishing", `${what} is queued.`);
}

/**
 * Queue the finals of picture `number` (from 0) of a batch alone: in the prompt, the first samplers of each
 * final are given that picture of their latent_image.
 */
async function queueOne(number) {
  const { output, workflow } = await app.graphToPrompt();
  const isSampler = (id) => Array.isArray(output[id].inputs.latent_image);
  for (const id of nodesOf(SWITCH).map(idOf)) {
    const samplers = [...behind(output, output[id]?.inputs.final?.[0])].filter(isSampler);
    for (const sampler of samplers) {
      const source = output[sampler].inputs.latent_image;
      if ([...behind(output, source[0])].some(isSampler)) continue; // a second pass over what is picked
      output[`${sampler}:pick`] = {
        class_type: "LatentFromBatch",
        inputs: { samples: source, batch_index: number, length: 1 },
        _meta: { title: `Picture ${number + 1}` },
      };
      output[sampler].inputs.latent_image = [`${sampler}:pick`, 0];
    }
  }
  await api.queuePrompt(0, { output, workflow });
}
