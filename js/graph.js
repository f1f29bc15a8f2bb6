// What the other modules need of the page's graph: its nodes, their widgets, one undo step, a part of our own
// on a node.

import { app } from "../../scripts/app.js";

export const SWITCH = "DDIMDraftSwitch";
export const SHEET = "DDIMContactSheet";

/** The whole graph, whichever subgraph is open. */
export const rootGraph = () => app.rootGraph ?? app.graph;

/**
 * [execution id, node, subgraph nodes around it] of every node, those inside subgraphs included: "7", or
 * "12:7" for node 7 of subgraph node 12.
 */
export function* everyNode(graph = rootGraph(), prefix = "", around = []) {
  for (const node of graph?.nodes ?? []) {
    const id = `${prefix}${node.id}`;
    yield [id, node, around];
    if (node.subgraph) yield* everyNode(node.subgraph, `${id}:`, [...around, node]);
  }
}

const entryOf = (node) => [...everyNode()].find(([, each]) => each === node);

export const idOf = (node) => entryOf(node)?.[0];

/** The nodes of one type. */
export const nodesOf = (type) =>
  [...everyNode()].map(([, node]) => node).filter((node) => node.comfyClass === type);

const SUBGRAPH_INPUT = "-10"; // where a subgraph's inputs come from; older pages have it as a number

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** The number of the input slot that feeds a widget through a link; -1 where none does. */
export function linkedSlot(node, name) {
  const slot = node.inputs?.findIndex((input) => input.widget?.name === name) ?? -1;
  return slot >= 0 && node.isInputConnected(slot) ? slot : -1;
}

/**
 * {node, widget} that decide an input of a node, inside the subgraph nodes `around`: its own, or where a link
 * feeds it, a Primitive node's or the one on the face of the subgraph. Undefined where it is computed.
 */
export function deciding(node, name, around) {
  const slot = linkedSlot(node, name);
  const widget = widgetOf(node, name);
  if (slot < 0) return widget && { node, widget };
  const link = node.graph.getLink(node.inputs[slot].link);
  if (String(link?.origin_id) === SUBGRAPH_INPUT) {
    const faces = around ?? entryOf(node)?.[2] ?? []; // a walk over the graph: only where it is needed
    const face = faces.at(-1);
    return face && deciding(face, node.graph.inputs[link.origin_slot].name, faces.slice(0, -1));
  }
  const from = node.getInputNode(slot);
  const [held] = (from?.type.startsWith("Primitive") && from.widgets) || [];
  return held && { node: from, widget: held };
}

/** Set a widget as a user would, so that the node, both renderers and other packs hear of it. */
export function setWidget(node, widget, value) {
  if (widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.graph?.setDirtyCanvas?.(true, true);
}

/** What changes between these two is one step of the page's undo. */
export const beginStep = () => app.canvas.emitBeforeChange();
export const endStep = () => app.canvas.emitAfterChange();

export function asOneStep(change) {
  beginStep();
  try {
    return change();
  } finally {
    endStep();
  }
}

/** Let the page's undo notice changes that no click or key of its own told it of. */
export function rememberForUndo() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.(); // its name in older frontends
}

/** Call `after` behind a callback of the node that may exist already. */
export function chain(node, name, after) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

/** Queue the graph as it stands now. While the page is busy, it would take a later one. */
export async function queue() {
  while (app.processingQueue) await new Promise((resolve) => setTimeout(resolve, 20));
  await app.queuePrompt(0, 1);
}

/**
 * Put an element below the node's widgets: a DOM widget, which both renderers show. It is no input: neither
 * workflow files nor prompts hold it. `height` is in pixels of an unzoomed canvas; a part that `grows` takes
 * what the node has, and stays when the canvas is far away.
 */
export function addPart(node, name, element, height, grows = false) {
  // else the press would drag the node
  const keepFromNode = (event) => event.button === 0 && event.stopPropagation();
  element.classList.add("ddim-part");
  if (grows) element.classList.add("widget-expands"); // Nodes 2.0's own mark for this
  element.addEventListener("pointerdown", keepFromNode);
  const options = {
    serialize: false,
    hideOnZoom: !grows,
    hideInPanel: true, // shown there, it takes the panel's width on the node
    margin: 6,
    getMinHeight: () => height,
    ...(grows ? {} : { getMaxHeight: () => height }),
  };
  const widget = node.addDOMWidget(name, "ddim", element, options);
  widget.serialize = false;
  widget.label = name.replaceAll("_", " "); // for app mode and its builder
  const grow = () => {
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  };
  chain(node, "onConfigure", grow); // a file may come from a page without this part
  // Nodes 2.0 goes on showing the part of the node that had this id before undo or a change of tabs
  const show = () =>
    element.isConnected ||
    document.querySelector(`[data-node-id="${node.id}"] .ddim-${name}`)?.replaceWith(element);
  element.classList.add(`ddim-${name}`);
  chain(node, "onAdded", () => setTimeout(show, 100));
  grow();
  return widget;
}

export function notify(severity, summary, detail) {
  app.extensionManager?.toast?.add({ severity, summary, detail, life: 5000 });
}

/** An element with attributes and children; `svg` for SVG's names. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
