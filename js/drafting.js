// Draft, pick, finish: what the page offers from the start. What does it comes with the first draft switch or
// contact sheet (drafting/).

import { app } from "../../scripts/app.js";
import { addPart, make, SHEET, SWITCH } from "./graph.js";
import { loadAll, MISSING, tellThatNoneIsThere } from "./load.js";

const HEIGHT = 300;
const SIZE = [800, 620]; // two rows of four squares

const turnAll = (useFinal) => command(({ drafts }) => drafts.turnAll(useFinal));
const flip = () => command(({ drafts }) => drafts.flip());
const queueDraft = () => command(({ drafts }) => drafts.queueDraft());
const finishSelected = () => command(({ finish }) => finish.finishSelected());

async function command(action) {
  const modules = await loadAll();
  return modules ? action(modules) : tellThatNoneIsThere();
}

app.registerExtension({
  name: "DDIMToolkit.Drafting",
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
    {
      id: "DDIMToolkit.Finish",
      label: "Finish: the picked drafts, or the one that the selected node shows",
      icon: "pi pi-check-circle",
      function: finishSelected,
    },
  ],
  keybindings: [
    { commandId: "DDIMToolkit.Flip", combo: { key: "d", shift: true } },
    { commandId: "DDIMToolkit.QueueDraft", combo: { key: "Enter", alt: true } },
    { commandId: "DDIMToolkit.Finish", combo: { key: "Enter", alt: true, shift: true } },
  ],
  menuCommands: [
    {
      path: ["Edit", "DDIM drafts"],
      commands: ["DDIMToolkit.Drafts", "DDIMToolkit.Finals", "DDIMToolkit.QueueDraft", "DDIMToolkit.Finish"],
    },
  ],
  actionBarButtons: [
    {
      icon: "pi pi-pencil",
      label: "Drafts",
      tooltip: "Turn every draft switch to draft (Shift+D flips)",
      class: "ddim-switches ddim-to-drafts",
      onClick: () => turnAll(false),
    },
    {
      icon: "pi pi-star",
      label: "Finals",
      tooltip: "Turn every draft switch to final: of the last draft (Shift+D flips)",
      class: "ddim-switches ddim-to-finals",
      onClick: () => turnAll(true),
    },
    {
      icon: "pi pi-bolt",
      label: "Queue a draft",
      tooltip: "Queue with every switch on draft and nothing picked, whatever they say (Alt+Enter)",
      class: "ddim-drafts",
      onClick: queueDraft,
    },
    {
      icon: "pi pi-check-circle",
      label: "Finish",
      tooltip: "Finish the picked drafts, or the one that the selected node shows (Alt+Shift+Enter)",
      class: "ddim-drafts",
      onClick: finishSelected,
    },
  ],
  nodeCreated(node) {
    if (![SWITCH, SHEET].includes(node.comfyClass)) return;
    if (node.comfyClass === SHEET) addSheet(node);
    loadAll().then((modules) => modules?.drafts.follow(node));
  },
});

/** The sheet's part is there from the start: Nodes 2.0 does not show parts that come later. */
function addSheet(node) {
  const element = make("div", { class: "ddim-sheet", role: "group", "aria-label": "Contact sheet" });
  addPart(node, "contact_sheet", element, HEIGHT, true);
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  loadAll().then((modules) => {
    if (modules) modules.contact_sheet.fill(node, element);
    else element.textContent = MISSING;
  });
}
