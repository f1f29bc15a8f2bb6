// All draft switches of the graph at once: "Drafts", "Finals", and "Queue a draft".

import { app } from "../../scripts/app.js";
import { asOneStep, chain, everyNode, notify, setWidget, widgetOf } from "./graph.js";

const SWITCH = "DDIMDraftSwitch";
let queueingDraft = false;

app.registerExtension({
  name: "DDIMToolkit.Drafts",
  commands: [
    {
      id: "DDIMToolkit.Drafts",
      label: "Drafts: turn every draft switch to draft",
      icon: "pi pi-pencil",
      function: () => turnAll(false),
    },
    {
      id: "DDIMToolkit.Finals",
      label: "Finals: turn every draft switch to final",
      icon: "pi pi-star",
      function: () => turnAll(true),
    },
    { id: "DDIMToolkit.Flip", label: "Flip between drafts and finals", icon: "pi pi-sync", function: flip },
    {
      id: "DDIMToolkit.QueueDraft",
      label: "Queue a draft, whatever the switches say",
      icon: "pi pi-bolt",
      function: queueDraft,
    },
  ],
  keybindings: [
    { commandId: "DDIMToolkit.Flip", combo: { key: "d", shift: true } },
    { commandId: "DDIMToolkit.QueueDraft", combo: { key: "Enter", alt: true } },
  ],
  menuCommands: [
    {
      path: ["Edit", "DDIM drafts"],
      commands: ["DDIMToolkit.Drafts", "DDIMToolkit.Finals", "DDIMToolkit.QueueDraft"],
    },
  ],
  actionBarButtons: [
    {
      icon: "pi pi-pencil",
      label: "Drafts",
      tooltip: "Turn every draft switch to draft (Shift+D flips)",
      class: "ddim-drafts",
      onClick: () => turnAll(false),
    },
    {
      icon: "pi pi-star",
      label: "Finals",
      tooltip: "Turn every draft switch to final (Shift+D flips)",
      class: "ddim-drafts",
      onClick: () => turnAll(true),
    },
    {
      icon: "pi pi-bolt",
      label: "Queue a draft",
      tooltip: "Queue with every switch on draft, whatever they say (Alt+Enter)",
      class: "ddim-drafts",
      onClick: queueDraft,
    },
  ],
  nodeCreated(node) {
    if (node.comfyClass !== SWITCH) return;
    const widget = widgetOf(node, "use_final");
    // what the queue gets; the file keeps the toggle
    widget.serializeValue = () => !queueingDraft && widget.value;
    // after it took place
    for (const event of ["onAdded", "onRemoved"]) chain(node, event, () => setTimeout(showButtons));
  },
});

function findSwitches() {
  return [...everyNode()].map(([, node]) => node).filter((node) => node.comfyClass === SWITCH);
}

/** The top bar's buttons are only there for graphs with a switch (ddim.css). */
function showButtons() {
  document.body.classList.toggle("ddim-has-switch", findSwitches().length > 0);
}

/** [node, widget] of every switch of the graph. Says so where there is none. */
function switches() {
  const found = findSwitches();
  if (!found.length) notify("warn", "No draft switch", "This graph has no DDIM Draft Switch.");
  return found.map((node) => [node, widgetOf(node, "use_final")]);
}

export function turnAll(useFinal) {
  asOneStep(() => switches().forEach(([node, widget]) => setWidget(node, widget, useFinal)));
}

/** Finals if any switch stands on draft, otherwise drafts. */
function flip() {
  turnAll(switches().some(([, widget]) => !widget.value));
}

export async function queueDraft() {
  if (queueingDraft || !switches().length) return;
  queueingDraft = true;
  try {
    await app.queuePrompt(0, 1);
  } finally {
    queueingDraft = false;
  }
}
