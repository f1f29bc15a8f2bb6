// A strip that shows which timesteps are visited, noise at the left, picture at the right. The formulas are
// Python's: the strip asks the pack's route. After a run it shows what the node really gave, on the same
// axis.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPart, everyNode, linkedSlot, make, svg, widgetOf } from "./graph.js";
import "./eta_dial.js"; // first: the dial stands above the strip
import { watch } from "./watch.js";

const HEIGHT = 52;
const INPUTS = {
  DDIMKSampler: ["steps", "stride", "denoise"],
  DDIMStrideScheduler: ["steps", "stride", "denoise"],
  DDIMCustomSchedule: ["timesteps"],
};
const strips = new WeakMap(); // node -> function that shows what a run of it gave

app.registerExtension({
  name: "DDIMToolkit.StrideStrip",
  nodeCreated(node) {
    const names = INPUTS[node.comfyClass];
    if (names) addStrip(node, names);
  },
  setup() {
    api.addEventListener("ddim_toolkit.sigmas", ({ detail }) => {
      for (const [id, node] of everyNode()) if (id === String(detail.node)) strips.get(node)?.(detail);
    });
  },
});

function addStrip(node, names) {
  const { element, show } = strip();
  let current; // the query that the strip stands for: answers to older ones come too late
  let ran; // the query whose real sigmas are shown: they outrank the route's answer
  let written; // the list holds noise levels and no timesteps: they keep their own axis

  const look = watch(
    node,
    () => query(node, names),
    async (asked) => {
      current = asked;
      ran = undefined;
      const link = names.find((name) => linkedSlot(node, name) >= 0);
      const answer = link ? { note: `${link} comes from a link: shown after a run` } : await ask(asked);
      if (current !== asked) return;
      written = Boolean(answer.sigmas);
      if (ran !== asked) show(answer);
    },
  );
  strips.set(node, ({ sigmas, timesteps, total, note }) => {
    look(); // a short run may end before the next look
    ran = current;
    show({ sigmas, total, note, timesteps: written ? undefined : timesteps, real: true });
  });
  addPart(node, "stride_strip", element, HEIGHT);
}

/** The route's query string for the node's widgets; it differs whenever the strip must change. */
function query(node, names) {
  const values = new URLSearchParams();
  for (const name of names) {
    const value = linkedSlot(node, name) >= 0 ? "" : String(widgetOf(node, name)?.value ?? "");
    // short, as a request line is
    values.set(name, name === "timesteps" ? value.replace(/#.*/g, "").replace(/[\s,;]+/g, " ") : value);
  }
  return values.toString();
}

async function ask(asked) {
  try {
    const response = await api.fetchApi(`/ddim_toolkit/stride?${asked}`);
    return await response.json();
  } catch {
    return { note: "no answer from the server" };
  }
}

/**
 * The strip's elements, and show(answer): timesteps and total, or sigmas, with a note; or an error, or a
 * note.
 */
function strip() {
  const ticks = svg("path");
  const caption = make("div", { class: "ddim-caption" });
  const element = make(
    "div",
    { class: "ddim-strip", role: "img" },
    svg("svg", { viewBox: "-8 0 1016 20", preserveAspectRatio: "none" }, ticks),
    caption,
  );

  function show(answer) {
    const { places, text, all } = describe(answer);
    const remark = places.length && answer.note ? `${answer.note}. ` : "";
    ticks.setAttribute("d", places.map((x) => `M ${(1000 * x).toFixed(1)} 3 V 17`).join(" "));
    element.toggleAttribute("data-bad", Boolean(answer.error));
    element.toggleAttribute("data-real", Boolean(answer.real));
    caption.textContent = remark + text;
    element.title = remark + (all ?? text);
    element.setAttribute("aria-label", `Stride, noise to picture. ${remark}${text}`);
  }
  return { element, show };
}

/** Where the ticks stand, from 0 (noise) to 1 (picture), and the words below. */
function describe({ timesteps, total, sigmas, real, error, note }) {
  if (!timesteps && !sigmas) return { places: [], text: error ?? note ?? "" };
  if (timesteps && !timesteps.length) return { places: [], text: "denoise 0: nothing is sampled" };
  const levels = sigmas?.filter((sigma) => sigma > 0);
  const places = timesteps ? timesteps.map((t) => 1 - t / (total - 1)) : fallOfLogarithms(levels);
  const steps = `${places.length} step${places.length === 1 ? "" : "s"}`;
  if (!sigmas)
    return {
      places,
      text: `${steps} of ${total}: ${ends(timesteps)}`,
      all: `Timesteps: ${timesteps.join(", ")}`,
    };
  return {
    places,
    text: `${steps}${real ? ", as run" : ""}: sigma ${ends(levels.map(short))}`,
    all: `Sigmas${timesteps ? "" : ", on a logarithmic scale"}: ${sigmas.map(short).join(", ")}`,
  };
}

function fallOfLogarithms(levels) {
  const logs = levels.map(Math.log);
  const span = logs[0] - logs.at(-1) || 1;
  return logs.map((log) => (logs[0] - log) / span);
}

const ends = (list) =>
  list.length > 4 ? `${list.slice(0, 3).join(", ")} … ${list.at(-1)}` : list.join(", ");
const short = (sigma) => Number(sigma.toPrecision(3));
