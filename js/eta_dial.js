// A dial beside the eta widget: 0 is DDIM, 1 is DDPM. The widget stays what holds the value.

import { app } from "../../scripts/app.js";
import {
  addPart,
  beginStep,
  endStep,
  linkedSlot,
  make,
  rememberForUndo,
  setWidget,
  svg,
  widgetOf,
} from "./graph.js";
import { watch } from "./watch.js";

const HEIGHT = 62;
const TRAVEL = 160; // pixels of dragging from 0 to 1
const SNAP = 0.02; // the dial rests on its stops
const KEYS = {
  ArrowUp: 0.05,
  ArrowRight: 0.05,
  ArrowDown: -0.05,
  ArrowLeft: -0.05,
  PageUp: 0.2,
  PageDown: -0.2,
  Home: -1,
  End: 1,
};

app.registerExtension({
  name: "DDIMToolkit.EtaDial",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("DDIM")) return;
    const widget = widgetOf(node, "eta");
    if (widget) addDial(node, widget);
  },
});

function addDial(node, widget) {
  const { element, knob, input, show } = dial();
  const linked = () => linkedSlot(node, "eta") >= 0;
  const set = (value) => {
    if (linked() || !Number.isFinite(value)) return;
    setWidget(node, widget, Math.round(Math.min(1, Math.max(0, value)) * 1000) / 1000);
    look();
  };
  const look = watch(
    node,
    () => `${widget.value} ${linked()}`,
    () => show(Number(widget.value), linked()),
  );
  listen(knob, () => Number(widget.value), set);
  input.addEventListener("change", () => {
    set(Number(input.value.trim().replace(",", ".") || NaN));
    show(Number(widget.value), linked()); // text that is no number goes back to the value
    rememberForUndo();
  });
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") input.blur();
  });
  for (const stop of element.querySelectorAll("[data-stop]"))
    stop.addEventListener("click", () => set(Number(stop.dataset.stop)));
  addPart(node, "eta_dial", element, HEIGHT);
  look();
}

/** The dial's elements, and show(value, linked) that draws it. */
function dial() {
  const arc = (from, to) => {
    const at = (share) =>
      [0.75 + 1.5 * share, 18].reduce((angle, r) => [
        24 + r * Math.cos(angle * Math.PI),
        24 + r * Math.sin(angle * Math.PI),
      ]);
    return `M ${at(from)} A 18 18 0 ${to - from > 2 / 3 ? 1 : 0} 1 ${at(to)}`;
  };
  const filled = svg("path", { class: "ddim-filled" });
  const hand = svg("line", { x1: 24, y1: 24, x2: 24, y2: 10, class: "ddim-hand" });
  const knob = svg(
    "svg",
    {
      viewBox: "0 0 48 44",
      class: "ddim-knob",
      tabindex: 0,
      role: "slider",
      "aria-label": "eta",
      "aria-valuemin": 0,
      "aria-valuemax": 1,
    },
    svg("path", { d: arc(0, 1), class: "ddim-track" }),
    filled,
    svg("circle", { cx: 24, cy: 24, r: 13, class: "ddim-cap" }),
    hand,
  );
  const input = make("input", {
    class: "ddim-number",
    inputmode: "decimal",
    "aria-label": "eta, typed",
    spellcheck: "false",
  });
  const ddim = make("button", { type: "button", "data-stop": 0, title: "eta 0: no noise is added" }, "DDIM");
  const ddpm = make("button", { type: "button", "data-stop": 1, title: "eta 1: the full noise" }, "DDPM");
  const element = make(
    "div",
    {
      class: "ddim-dial",
      title: "Drag, or click the dial and use the wheel or the arrow keys (Shift: finer)",
    },
    ddim,
    knob,
    ddpm,
    input,
  );

  function show(value, linked) {
    filled.setAttribute("d", value > 0 ? arc(0, value) : "");
    hand.setAttribute("transform", `rotate(${-135 + 270 * value} 24 24)`);
    knob.setAttribute("aria-valuenow", value);
    knob.setAttribute("aria-valuetext", value === 0 ? "0, DDIM" : value === 1 ? "1, DDPM" : String(value));
    ddim.classList.toggle("ddim-on", value === 0);
    ddpm.classList.toggle("ddim-on", value === 1);
    element.classList.toggle("ddim-linked", linked);
    input.disabled = linked;
    input.value = linked ? "link" : String(value);
  }
  return { element, knob, input, show };
}

/**
 * Drag, wheel and keys. The wheel only moves a dial that was clicked, so that zooming never changes a value.
 */
function listen(knob, get, set) {
  let start;
  knob.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    knob.focus();
    knob.setPointerCapture(event.pointerId);
    start = { x: event.clientX, y: event.clientY, value: get() };
    beginStep();
  });
  knob.addEventListener("pointermove", (event) => {
    if (!start) return;
    event.stopPropagation();
    const moved = (event.clientX - start.x + start.y - event.clientY) / TRAVEL;
    const value = start.value + (event.shiftKey ? moved / 10 : moved);
    set(value < SNAP ? 0 : value > 1 - SNAP ? 1 : Math.round(value * 100) / 100);
  });
  knob.addEventListener("lostpointercapture", () => {
    if (start) endStep();
    start = undefined;
  });

  knob.addEventListener("focus", () => (knob.dataset.captureWheel = "true")); // the page's own mark for this
  knob.addEventListener("blur", () => delete knob.dataset.captureWheel);
  knob.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== knob || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      const down = event.deltaY || event.deltaX; // Shift turns the wheel sideways
      set(get() - Math.sign(down) * (event.shiftKey ? 0.01 : 0.05));
      clearTimeout(knob.rest);
      knob.rest = setTimeout(rememberForUndo, 400); // one undo step for one turn of the wheel
    },
    { passive: false },
  );

  knob.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    set(get() + KEYS[event.key] * (event.shiftKey ? 0.2 : 1));
  });
}
