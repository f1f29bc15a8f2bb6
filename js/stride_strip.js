// A strip that shows which timesteps are visited, noise at the left, picture at the right. The formulas are
// Python's: the strip asks the pack's route. After a run it shows the noise levels that the node really gave.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPart, chain, linkedSlot, make, svg, widgetOf } from "./graph.js";
import "./eta_dial.js"; // first: the dial stands above the strip
import { watch } from "./watch.js";

const HEIGHT = 52;
const INPUTS = {
  DDIMKSampler: ["steps", "stride", "denoise"],
  DDIMStrideScheduler: ["steps", "stride", "denoise"],
  DDIMCustomSchedule: ["timesteps"],
};

app.registerExtension({
  name: "DDIMToolkit.StrideStrip",
  nodeCreated(node) {
    const names = INPUTS[node.comfyClass];
    if (names) addStrip(node, names);
  },
});

function addStrip(node, names) {
  const { element, show } = strip();
  let current; // the query that the strip stands for: answers to older ones come too late
  let ran; // the query whose real sigmas are shown: they outrank the route's answer

  const look = watch(
    node,
    () => query(node, names),
    async (asked) => {
      current = asked;
      ran = undefined;
      const link = names.find((name) => linkedSlot(node, name) >= 0);
      const answer = link ? { note: `${link} comes from a link: shown after a run` } : await ask(asked);
      if (current === asked && ran !== asked) show(answer);
    },
  );
  chain(node, "onExecuted", (output) => {
    if (!output?.ddim_sigmas) return;
    look(); // a short run may end before the next look
    ran = current;
    show({ sigmas: output.ddim_sigmas, note: output.ddim_note?.[0], real: true });
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

/** The strip's elements, and show(answer) with {timesteps, total, note}, {sigmas, note, real}, {error} or {note}. */
function strip() {
  const ticks = svg("path");
  const caption = make("div", { class: "ddim-caption" });
  const element = make(
    "div",
    { class: "ddim-strip" },
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
  }
  return { element, show };
}

/** Where the ticks stand, from 0 (noise) to 1 (picture), and the words below. */
function describe({ timesteps, total, sigmas, real, error, note }) {
  if (timesteps) {
    return {
      places: timesteps.map((t) => 1 - t / (total - 1)),
      text: timesteps.length
        ? `${count(timesteps)} of ${total}: ${ends(timesteps)}`
        : "denoise 0: nothing is sampled",
      all: `Timesteps: ${timesteps.join(", ")}`,
    };
  }
  if (sigmas) {
    const levels = sigmas.filter((sigma) => sigma > 0);
    const logs = levels.map(Math.log);
    const [top, span] = [logs[0], logs[0] - logs.at(-1) || 1];
    return {
      places: logs.map((log) => (top - log) / span),
      text: `${count(levels)}${real ? ", as run" : ""}: sigma ${ends(levels.map(short))}`,
      all: `Sigmas, on a logarithmic scale: ${sigmas.map(short).join(", ")}`,
    };
  }
  return { places: [], text: error ?? note ?? "" };
}

const count = (list) => `${list.length} step${list.length === 1 ? "" : "s"}`;
const ends = (list) =>
  list.length > 4 ? `${list.slice(0, 3).join(", ")} … ${list.at(-1)}` : list.join(", ");
const short = (sigma) => Number(sigma.toPrecision(3));
