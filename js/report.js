// Text that a node of this pack gives after a run (the inversion's error, a measured schedule), shown on the node.

import { app } from "../../scripts/app.js";
import { addPart, chain, make } from "./graph.js";

const HEIGHT = 102;

app.registerExtension({
  name: "DDIMToolkit.Report",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("DDIM")) return;
    let element;
    chain(node, "onExecuted", (output) => {
      if (!output?.text) return;
      if (!element) {
        element = make("div", { class: "ddim-report", tabindex: 0, "data-capture-wheel": "true" });
        addPart(node, "report", element, HEIGHT);
      }
      element.textContent = [output.text].flat().join("\n");
    });
  },
});
