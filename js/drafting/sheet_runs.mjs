// The drafts that contact sheets showed in this page session, and the finals that came of them.

import { nodesOf, SHEET } from "../graph.js";
import { listen, load } from "../load.js";

const { behind, isLink, recordOf, seedsIn } = await load("seeds");

const KEPT = 64; // pictures of a sheet; a run with a picked one stays, and so does the last run
const sheets = new Map(); // "graph id:node id" -> runs, newest first
const finishing = new Map(); // prompt id -> {runs, run, id of the sheet, picks}
const DIALS = ["steps", "cfg", "eta", "stride", "denoise"]; // of DDIM Dial Grid, beside the seed
let turn = Promise.resolve(); // events are taken one after the other, though the server is asked between

/** The runs of a sheet; `version` differs when something has changed. */
export function runsOf(sheet) {
  if (!sheets.has(sheet)) sheets.set(sheet, Object.assign([], { version: 0 }));
  return sheets.get(sheet);
}

/** Note what runs show, from now on; `changed()` after each. */
export function listenForRuns(changed) {
  // asked for while it runs, so that the sheet stands when it ends
  listen("execution_start", ({ detail }) => nodesOf(SHEET).length && recordOf(detail.prompt_id));
  listen("executed", ({ detail }) => {
    if (!detail?.output) return;
    turn = turn.then(async () => (await note(detail)) && changed()).catch(console.error);
  });
}

async function note({ node, display_node, output, prompt_id }) {
  const id = String(display_node ?? node);
  const shown = output.ddim_sheet?.[0];
  if (!shown && !(output.images?.length && finishing.has(prompt_id))) return false;
  const record = await recordOf(prompt_id);
  if (!record) return false;
  return shown
    ? noteDrafts(`${record.workflow}:${id}`, id, shown, record.prompt, prompt_id)
    : noteFinals(id, output.images, record.prompt, prompt_id);
}

function noteDrafts(sheet, id, { pictures, picks, ...shown }, prompt, prompt_id) {
  const runs = runsOf(sheet);
  const key = pictures.map(({ filename }) => filename).join();
  let run = runs.find((each) => each.key === key);
  if (!run) {
    run = { key, id, pictures, time: new Date(), picked: new Set(), finals: new Map() };
    runs.unshift(run);
  }
  const upstream = [...behind(prompt, id)];
  Object.assign(run, shown, { prompt, seed: seedText(prompt, upstream), dials: dialsOf(prompt, id, shown) });
  if (picks.length) finishing.set(prompt_id, { runs, run, id, picks });
  forget(runs);
  runs.version += 1;
  return true;
}

/** {name: value} of each picture of a dial grid: the node's own, and the two that its label gives. */
function dialsOf(prompt, sheet, { labels }) {
  const [grid] = prompt[sheet].inputs.labels ?? [];
  if (prompt[grid]?.class_type !== "DDIMDialGrid") return;
  const own = Object.entries(prompt[grid].inputs).filter(
    ([name, value]) => DIALS.includes(name) && !isLink(value),
  );
  const seeds = seedsIn(prompt, [grid]).map(([, , value]) => ["seed", value]);
  const written = (label) => label.split(", ").map((dial) => dial.split(" "));
  const valueOf = ([name, text]) => [name, name === "stride" ? text : Number(text)];
  return labels.map((label) => Object.fromEntries([...own, ...seeds, ...written(label).map(valueOf)]));
}

function noteFinals(id, images, prompt, prompt_id) {
  const { runs, run, id: sheet, picks } = finishing.get(prompt_id);
  const fromPicks = ([origin, slot]) => origin === sheet && slot === 1;
  const sampled = [...behind(prompt, id)].some((each) =>
    Object.values(prompt[each].inputs).some((value) => Array.isArray(value) && fromPicks(value)),
  );
  if (!sampled || images.length !== picks.length) return false;
  picks.forEach((number, i) => run.finals.set(number, images[i]));
  runs.version += 1;
  return true;
}

function forget(runs) {
  let total = 0;
  for (const run of [...runs]) {
    total += run.pictures.length;
    if (total > KEPT && run !== runs[0] && !run.picked.size) runs.splice(runs.indexOf(run), 1);
  }
}

/** "seed 7": of the samplers; DDIM Sampler's own, 0 for most, only varies its eta noise. */
function seedText(prompt, ids) {
  const seeds = seedsIn(prompt, ids).filter(([id]) => prompt[id].class_type !== "DDIMSampler");
  const values = [...new Set(seeds.map(([, , value]) => value))];
  return values.length ? `seed ${values.join(", ")}` : "";
}
