// In Nodes 2.0 older pages cut a number after its third decimal: a tolerance of 0.00001 reads 0, and so is
// what is typed. They read how many decimals a widget has from an option that they do not set themselves.

import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "DDIMToolkit.FineNumbers",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("DDIM")) return;
    for (const { options } of node.widgets ?? [])
      if (options?.precision > 3) options.maxFractionDigits = options.precision;
  },
});
