// Notice when what a node shows has changed.
//
// A widget's value changes by typing, dragging, undo, loading, links and other packs, and no event tells of
// all of them in both renderers. So the few nodes that need it are read again five times a second: a
// comparison of strings.

import { chain } from "./graph.js";

const EVERY = 200; // ms
const watched = new Set();
let timer;

/**
 * While `node` is in a graph, call `changed(key)` whenever the text that `read()` gives differs from the last
 * one.
 */
export function watch(node, read, changed) {
  const look = () => {
    const key = read();
    if (key === look.last) return;
    look.last = key;
    changed(key);
  };
  chain(node, "onAdded", () => start(look));
  chain(node, "onRemoved", () => stop(look));
  if (node.graph) start(look);
  return look;
}

function start(look) {
  watched.add(look);
  timer ??= setInterval(lookAtAll, EVERY);
}

function stop(look) {
  watched.delete(look);
  if (watched.size) return;
  clearInterval(timer);
  timer = undefined;
}

function lookAtAll() {
  if (document.hidden) return;
  for (const look of watched) look();
}
