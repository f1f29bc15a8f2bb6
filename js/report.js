// The report of a run (an inversion's error, what a measured schedule cost), shown on the node that gives it.

import { app } from "../../scripts/app.js";
import { addPart, chain, make } from "./graph.js";
import "./eta_dial.js"; // first: the dial stands above the report

const HEIGHT = 102;
const NODES = ["DDIMInversion", "DDIMInversionAdvanced", "DDIMEdit", "DDIMAdaptiveScheduler"];

app.registerExtension({
  name: "DDIMToolkit.Report",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    // There from the start: Nodes 2.0 does not show parts that come later.
    const element = make(
      "div",
      {
        class: "ddim-report ddim-empty",
        tabindex: 0,
        role: "status",
        "aria-label": "Report",
        "data-capture-wheel": "true",
      },
      "A run writes its report here.",
    );
    addPart(node, "report", element, HEIGHT);
    chain(node, "onExecuted", (output) => {
      if (!output?.text) return;
      element.textContent = [output.text].flat().join("\n");
      element.classList.remove("ddim-empty");
    });
  },
});
