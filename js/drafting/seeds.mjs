// What made a picture: what the queue's record of its run says of it, and holding the graph's seeds and
// other widgets at those values until its final is queued.

import { api } from "../../../scripts/api.js";
import {
  asOneStep,
  beginStep,
  deciding,
  endStep,
  everyNode,
  idOf,
  rootGraph,
  setWidget,
  SWITCH,
  widgetOf,
} from "../graph.js";

const SEED = /(^|_)seed$/;
const records = new Map(); // promises of them, by prompt id
const KEPT = 200;

/**
 * {prompt: {node id: {class_type, inputs}}, workflow: id of its graph} of a queued prompt; undefined where
 * the server no longer has it.
 */
export function recordOf(id) {
  if (!records.has(id)) {
    if (records.size === KEPT) records.delete(records.keys().next().value);
    records.set(id, askFor(id));
  }
  return records.get(id);
}

async function askFor(id) {
  const { queue_running, queue_pending } = await ask("/queue");
  const queued = [...queue_running, ...queue_pending].find((entry) => entry[1] === id);
  const entry = queued ?? (await ask(`/history/${id}`))[id]?.prompt;
  if (entry) return { prompt: entry[2], workflow: entry[3]?.extra_pnginfo?.workflow?.id };
  records.delete(id); // to be asked for again
}

const ask = async (path) => (await api.fetchApi(path)).json();

export const isLink = (value) => Array.isArray(value) && value.length === 2;

/** The ids of all nodes that a node's result comes from, itself among them; not what a switch leaves out. */
export function behind(prompt, id, found = new Set()) {
  if (!(id in prompt) || found.has(id)) return found;
  found.add(id);
  const { class_type, inputs } = prompt[id];
  const left = class_type === SWITCH && { true: "draft", false: "final" }[inputs.use_final];
  for (const [name, value] of Object.entries(inputs))
    if (isLink(value) && name !== left) behind(prompt, value[0], found);
  return found;
}

/** [node id, input, value] of the seeds in a prompt: of that name, or what feeds an input of that name. */
export function seedsIn(prompt, ids = Object.keys(prompt)) {
  const found = new Map();
  for (const id of ids)
    for (const name of Object.keys(prompt[id].inputs).filter((each) => SEED.test(each))) {
      const seed = follow(prompt, id, name);
      if (seed) found.set(`${seed[0]} ${seed[1]}`, seed);
    }
  return [...found.values()];
}

function follow(prompt, id, name) {
  const value = prompt[id].inputs[name];
  if (typeof value === "number") return [id, name, value];
  const inputs = isLink(value) ? (prompt[value[0]]?.inputs ?? {}) : {};
  const numbers = Object.keys(inputs).filter((each) => typeof inputs[each] === "number");
  const next = Object.keys(inputs).find((each) => SEED.test(each)) ?? (numbers.length === 1 && numbers[0]);
  return next ? follow(prompt, value[0], next) : undefined; // else it is computed from other numbers
}

/** A widget that changes another one after each run, known by its choices: hosts name it in several ways. */
const isControl = (widget) =>
  ["fixed", "randomize"].every((mode) => widget?.options?.values?.includes?.(mode));

const controlOf = (node, widget) =>
  [...(widget.linkedWidgets ?? []), node.widgets[node.widgets.indexOf(widget) + 1]].find(isControl);

/** A function that gives the place of {id, class_type, input} in the graph as it is now. */
function finder() {
  const nodes = new Map([...everyNode()].map(([id, ...found]) => [id, found]));
  return ({ id, class_type, input }) => {
    const [node, around] = nodes.get(id) ?? [];
    const place = node?.comfyClass === class_type && deciding(node, input, around);
    if (!place) return;
    // a subgraph's face may show the seed without its control
    const control = controlOf(place.node, place.widget) ?? controlOf(node, widgetOf(node, input));
    return { ...place, control };
  };
}

/**
 * Where each seed of a prompt is in the graph, and what else changes by itself from run to run, or has
 * another value now on one of the nodes `ids`: [{id, class_type, input, value, place}], place undefined if
 * gone.
 */
function placesOf(prompt, ids = new Set()) {
  const placeOf = finder();
  const located = ([id, input, value]) => {
    const widget = { id, class_type: prompt[id].class_type, input, value };
    return { ...widget, place: placeOf(widget) };
  };
  const seeds = seedsIn(prompt).map(located);
  const known = new Set(seeds.map(({ place }) => place?.widget));
  const others = Object.entries(prompt)
    .flatMap(([id, { inputs }]) => Object.entries(inputs).map(([input, value]) => [id, input, value]))
    .filter(([, , value]) => typeof value !== "object")
    .map(located)
    .filter(({ id, value, place }) => {
      if (!place || known.has(place.widget)) return false;
      const { widget, control } = place;
      const differs = typeof widget.value === typeof value && widget.value !== value;
      return (control && control.value !== "fixed") || (differs && ids.has(id));
    });
  return [...seeds, ...others];
}

/** Every number of the graph's widgets, by node id and name. */
export function numbersNow() {
  const found = new Map();
  for (const [id, node] of everyNode())
    for (const { name, value } of node.widgets ?? [])
      if (typeof value === "number") found.set(`${id} ${name}`, value);
  return found;
}

/** Whether the graph's seeds are a prompt's, or what they were at an earlier `numbersNow`. */
export function untouched(prompt, before = new Map()) {
  return placesOf(prompt).every(({ value, place }) => {
    const now = place?.widget.value;
    return !place || now === value || now === before.get(`${idOf(place.node)} ${place.widget.name}`);
  });
}

// graph id -> {owner, prompt, id, whole, seeds: [{id, input, class_type, value, before, control}]}: what is
// held. By ids: undo and tabs make new nodes
const held = new Map();

/**
 * Give the graph's seeds the values of a run, and hold them there (fixed) until `release(owner)`; where it is
 * `whole`, all else that made the picture of node `id`, too. Returns why not, where a seed behind that
 * picture has no place in the graph, or there is none at all.
 */
export function hold(owner, prompt, id, whole = true) {
  release();
  const upstream = behind(prompt, id);
  const mine = placesOf(prompt).filter((seed) => upstream.has(seed.id));
  const gone = mine.find(({ place }) => !place);
  if (gone) {
    const { _meta, class_type } = prompt[gone.id];
    return `Its seed came from ${_meta?.title ?? class_type}, which is no longer in this graph.`;
  }
  if (!mine.length) return "No seed in this graph belongs to it.";
  asOneStep(() => {
    const seeds = new Map(); // by widget: several inputs of a subgraph may share one
    upstream.delete(id); // what shows the picture did not make it
    for (const { place, ...seed } of placesOf(prompt, whole ? upstream : undefined)) {
      if (!place || seeds.has(place.widget)) continue;
      const { node, widget, control } = place;
      const { value } = seed;
      seeds.set(widget, { ...seed, before: widget.value, control: control?.value });
      setWidget(node, widget, value);
      if (control) setWidget(node, control, "fixed");
    }
    held.set(rootGraph().id, { owner, prompt, id, whole, seeds: [...seeds.values()] });
  });
}

/** What is held in this graph, with the places: nothing, once the user, undo or a file changed one. */
function current() {
  const entry = held.get(rootGraph().id);
  if (!entry) return;
  const places = entry.seeds.map(finder());
  if (places.every((place, i) => place?.widget.value === entry.seeds[i].value)) return { ...entry, places };
  held.delete(rootGraph().id);
}

/** Who holds the seeds of this graph now. */
export const holder = () => current()?.owner;

/** Seeds back to what they were, with the control they had; what the user changed meanwhile stays. */
export function release(owner) {
  const entry = current();
  if (!entry || (owner !== undefined && owner !== entry.owner)) return;
  held.delete(rootGraph().id);
  asOneStep(() =>
    entry.seeds.forEach(({ before, control }, i) => {
      const place = entry.places[i];
      setWidget(place.node, place.widget, before);
      if (place.control) setWidget(place.node, place.control, control);
    }),
  );
}

/**
 * Do something while the seeds of a run are held, then hold what was held before. Returns why not, where it
 * cannot. The undo has nothing of it: in the end the graph is as it was.
 */
export async function withSeeds(prompt, id, action) {
  let problem;
  await withFreeSeeds(async () => {
    problem = hold(action, prompt, id);
    if (!problem) await action();
  });
  return problem;
}

/** Do something while no seed is held, then hold what was held before. */
export async function withFreeSeeds(action) {
  const former = current();
  beginStep();
  release();
  try {
    await action();
  } finally {
    release();
    if (former) hold(former.owner, former.prompt, former.id, former.whole);
    endStep();
  }
}
