// The contact sheet's part on its node: drafts as a grid, picked with a click, finished with one.

import { app } from "../../../scripts/app.js";
import {
  asOneStep,
  beginStep,
  chain,
  deciding,
  endStep,
  idOf,
  nodesOf,
  notify,
  queue,
  rootGraph,
  setWidget,
  widgetOf,
} from "../graph.js";
import { load } from "../load.js";
import { watch } from "../watch.js";

const { hold, holder, release, untouched, withSeeds } = await load("seeds");
const { listenForRuns, runsOf } = await load("sheet_runs");
const { sheetView } = await load("sheet_view");

const sheets = new Set();

listenForRuns(() => sheets.forEach((sheet) => sheet.look()));

/** Finish what is picked on all sheets of the graph; false where nothing is. */
export async function finishAllPicked() {
  const picked = [...sheets].filter((sheet) => sheet.runs().some((run) => run.picked.size));
  for (const sheet of picked) await sheet.finishPicked();
  return picked.length > 0;
}

/** Do something while the sheets pick nothing; what is marked stays marked. */
export async function withoutPicks(action) {
  const before = [...sheets].map((sheet) => [sheet, sheet.picksNow()]);
  before.forEach(([sheet]) => sheet.write(""));
  try {
    await action();
  } finally {
    before.forEach(([sheet, text]) => sheet.write(text));
  }
}

/** Draw the sheet of a node into its part, and follow what is done there. */
export function fill(node, element) {
  const columns = widgetOf(node, "columns");
  const name = () => `${rootGraph().id}:${idOf(node)}`; // survives undo and tabs, which make new nodes
  const runs = () => runsOf(name());
  // the run whose picks the widget holds, and whose seeds the graph
  const loaded = () => (holder() === name() ? runs().find((run) => run === runs().loaded) : undefined);
  // its widget, or one on a subgraph's face: undefined where the picks are computed
  const picks = () => deciding(node, "picks");
  const picksNow = () => picks()?.widget.value ?? "";
  const view = sheetView(element, {
    toggle,
    finish: (run, number) => finish([[run, [number]]]),
    finishPicked,
    copyDials,
  });
  let seen; // what `picks` said when the marks were made
  let problem = ""; // with what it says

  function toggle(run, number) {
    if (!run.picked.delete(number)) run.picked.add(number);
    asOneStep(() => load(run.picked.size ? run : nextPicked()));
  }

  const nextPicked = () => runs().find((run) => run.picked.size);

  /** What Run would queue now: the picks of a run with its seeds, or no picks with the graph's own seeds. */
  function load(run) {
    release(name());
    const problem = run && (linkProblem() ?? hold(name(), run.prompt, run.id));
    if (problem) {
      notify("warn", "Not picked", problem);
      run.picked.clear();
    }
    runs().loaded = problem ? undefined : run;
    write(loaded() ? textOf(loaded().picked) : "");
    view.mark(runs(), problem);
  }

  function write(text) {
    const place = picks();
    if (place) setWidget(place.node, place.widget, text);
    seen = picksNow();
    problem = "";
  }

  const linkProblem = () => (picks() ? undefined : "picks comes from a link, which decides.");

  function finishPicked() {
    const picked = runs().filter((run) => run.picked.size);
    return finish(picked.map((run) => [run, [...run.picked]]));
  }

  /** Queue the finals of [run, numbers], each with its run's seeds. Then all is as it was, without these. */
  async function finish(choices) {
    beginStep();
    try {
      for (const [run, numbers] of choices) {
        const problem =
          linkProblem() ??
          (await withSeeds(run.prompt, run.id, async () => {
            write(textOf(numbers));
            await queue();
          }));
        if (problem) {
          notify("warn", "Nothing was queued", problem);
          continue;
        }
        numbers.forEach((number) => run.picked.delete(number));
        notify("info", "Finishing", [`Picture ${textOf(numbers)}`, run.seed].filter(Boolean).join(", "));
      }
      load(nextPicked());
    } finally {
      endStep();
    }
  }

  /** What the user typed, or undo brought back: picks of the run whose seeds the graph has. */
  function read() {
    seen = picksNow();
    const former = runs().loaded;
    const run = runs().find((each) => untouched(each.prompt));
    const count = run?.pictures.length ?? Infinity;
    const words = seen.split(/[\s,]+/).filter(Boolean); // as host/sheet.py reads them
    const wrong = words.find((word) => !/^\d{1,9}$/.test(word) || Number(word) < 1 || Number(word) > count);
    const allowed = run ? `the numbers 1 to ${count}` : "whole numbers from 1 up";
    problem = wrong ? `picks: "${wrong}" names no picture; allowed are ${allowed}, such as "3, 7".` : "";
    if (former && former !== run) former.picked.clear();
    if (run) run.picked = new Set(problem ? [] : words.map(Number));
    if (!words.length) release(name());
    runs().loaded = words.length ? run : undefined;
  }

  // after Run, too, what was picked is finished
  widgetOf(node, "picks").afterQueued = () => {
    const run = loaded();
    if (!run) return;
    run.picked.clear();
    load(nextPicked());
  };

  const look = watch(
    node,
    () => `${picksNow()} ${columns.value} ${name()} ${runs().version}`,
    () => {
      if (picksNow() !== seen) read();
      view.show(runs(), columns.value, problem);
    },
  );
  const sheet = { look, runs, finishPicked, write, picksNow };
  if (node.graph) sheets.add(sheet);
  chain(node, "onAdded", () => sheets.add(sheet));
  chain(node, "onRemoved", () => sheets.delete(sheet));
}

/** The dials of one picture of a dial grid, onto the selected DDIM KSampler, or the only one. */
function copyDials(run, number) {
  const all = nodesOf("DDIMKSampler");
  const selected = all.filter((node) => node.id in (app.canvas.selected_nodes ?? {}));
  const [target, ...others] = selected.length ? selected : all;
  if (!target || others.length)
    return notify("warn", "Which one?", "Select the DDIM KSampler that is to have these dials.");
  const dials = Object.entries(run.dials[number - 1]).filter(([name]) => widgetOf(target, name));
  asOneStep(() => dials.forEach(([name, value]) => setWidget(target, widgetOf(target, name), value)));
  notify("info", "Dials copied", dials.map(([name, value]) => `${name} ${value}`).join(", "));
}

const textOf = (numbers) => [...numbers].sort((a, b) => a - b).join(", ");
