// What a contact sheet looks like: a grid of pictures for each run, the newest on top, and one looked at
// closely.

import { api } from "../../../scripts/api.js";
import { make } from "../graph.js";

const SHEET_STYLE = new URL("./sheet.css", import.meta.url).href;
document.head.append(make("link", { rel: "stylesheet", href: SHEET_STYLE }));

const SMALLEST = 130; // pixels of a picture that the sheet chooses by itself
const GAP = 8;
const FOOT = 30;

/**
 * {show(runs, columns, problem), mark(runs, problem)}, drawn into `element`. `toggle(run, number)`,
 * `finish(run, number)`, `finishPicked()` and `copyDials(run, number)` are called by what the user does.
 */
export function sheetView(element, { toggle, finish, finishPicked, copyDials }) {
  const count = make("span", { class: "ddim-sheet-count", role: "status" });
  const button = make("button", { type: "button", class: "ddim-finish" }, "Finish");
  const scroll = make("div", { class: "ddim-sheet-scroll", "data-capture-wheel": "true" });
  const closeUp = make("div", { class: "ddim-close-up", role: "dialog", hidden: "" });
  const bar = make("div", { class: "ddim-sheet-bar" }, count, button);
  element.append(make("div", { class: "ddim-sheet-inside" }, bar, scroll, closeUp));
  const cellsOf = new WeakMap(); // run -> its cells, kept so that pictures stay loaded
  let shown = { runs: [], columns: 0 };
  let rows = []; // of cells, of all runs

  button.addEventListener("click", finishPicked);
  scroll.addEventListener("keydown", onKey);
  scroll.addEventListener("focusin", ({ target }) => target.matches(".ddim-cell") && rove(target));
  new ResizeObserver(() => layOut()).observe(scroll);

  function show(runs, columns, problem) {
    shown = { runs, columns };
    layOut(true);
    mark(runs, problem);
  }

  function layOut(anew = false) {
    const { runs, columns } = shown;
    const key = runs.map((run) => columnsOf(run, runs[0], columns)).join();
    if (!scroll.clientWidth || (!anew && key === layOut.last)) return;
    layOut.last = key;
    const focused = scroll.contains(document.activeElement) && document.activeElement;
    rows = [];
    const parts = runs.map((run) => drawRun(run, columnsOf(run, runs[0], columns)));
    if (!runs.length)
      parts.push(make("p", { class: "ddim-empty" }, "Run: the drafts appear here. Click the ones you like."));
    scroll.replaceChildren(...parts);
    rove(scroll.querySelector(".ddim-cell[tabindex='0']") ?? rows[0]?.[0]);
    if (focused) focused.focus({ preventScroll: true });
  }

  /** As asked, else what makes the newest run's pictures largest with all of them in view. */
  function columnsOf(run, newest, asked) {
    const wanted = asked || run.columns;
    if (wanted > 0) return wanted;
    const { clientWidth: width, clientHeight: height } = scroll;
    const total = newest.pictures.length;
    const ratio = newest.size[1] / newest.size[0];
    for (let columns = 1; columns <= total; columns++) {
      const wide = (width - GAP) / columns - GAP;
      const high = Math.ceil(total / columns) * (wide * ratio + FOOT + GAP) + FOOT;
      if (wide < SMALLEST) break;
      if (high <= height) return columns;
    }
    return Math.max(1, Math.floor((width - GAP) / (SMALLEST + GAP)));
  }

  function drawRun(run, columns) {
    if (!cellsOf.has(run))
      cellsOf.set(
        run,
        run.pictures.map((_, i) => drawCell(run, i + 1)),
      );
    const cells = cellsOf.get(run);
    const edges = edgesOf(run.labels, columns);
    const time = run.time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const title = [run.seed, time].filter(Boolean).join(" · ");
    const grid = make("div", {
      class: "ddim-run",
      role: "grid",
      "aria-multiselectable": true,
      "aria-label": `Drafts, ${title}`,
      style: `grid-template-columns: ${edges ? "auto " : ""}repeat(${columns}, minmax(0, 1fr))`,
    });
    const head = (role, text) => make("div", { role, class: "ddim-edge" }, text);
    if (edges)
      grid.append(
        make(
          "div",
          { role: "row" },
          head("presentation", ""),
          ...edges.across.map((text) => head("columnheader", text)),
        ),
      );
    for (let i = 0; i < cells.length; i += columns) {
      const row = cells.slice(i, i + columns);
      rows.push(row);
      grid.append(
        make("div", { role: "row" }, ...(edges ? [head("rowheader", edges.down[i / columns])] : []), ...row),
      );
    }
    cells.forEach(({ label }, i) => {
      label.textContent = label.title = (!edges && run.labels[i]) || (run.dials ? seedOf(run, i + 1) : "");
    });
    return make("section", {}, make("div", { class: "ddim-run-title" }, title), grid);
  }

  function drawCell(run, number) {
    const { small } = run.pictures[number - 1];
    const name = [`Draft ${number}`, run.labels[number - 1], seedOf(run, number)].filter(Boolean).join(", ");
    const act = (text, title, action, kind = "") => {
      const each = make(
        "button",
        { type: "button", tabindex: -1, title, "aria-label": `${title}: ${name}`, class: kind },
        text,
      );
      each.addEventListener("click", (event) => {
        event.stopPropagation();
        action();
      });
      return each;
    };
    const picture = make(
      "div",
      { class: "ddim-picture", style: shape(run) },
      make("img", {
        src: address(run.pictures[number - 1], small),
        alt: "",
        loading: "lazy",
        decoding: "async",
        draggable: false,
      }),
      icon("pi-check"),
      act(icon("pi-search-plus"), "Look closely", () => look(run, number, cell), "ddim-look"),
    );
    const label = make("span", { class: "ddim-cell-label" });
    const foot = make("div", { class: "ddim-cell-foot" }, make("b", {}, number), label);
    if (run.dials)
      foot.append(act("Dials", "Copy its dials onto DDIM KSampler", () => copyDials(run, number)));
    foot.append(act("Finish", "Finish this one", () => finish(run, number), "ddim-finish"));
    const cell = make(
      "div",
      { role: "gridcell", class: "ddim-cell", tabindex: -1, "aria-label": name },
      picture,
      foot,
    );
    Object.assign(cell, { run, number, label, picture });
    cell.addEventListener("click", () => {
      cell.focus({ preventScroll: true });
      toggle(run, number);
    });
    picture.addEventListener("pointermove", ({ offsetX }) => slide(picture, offsetX / picture.offsetWidth));
    return cell;
  }

  /** What is picked and what is finished, and how much of it; or the problem with what is written. */
  function mark(runs, problem) {
    let drafts = 0;
    let picked = 0;
    for (const run of runs) {
      drafts += run.pictures.length;
      picked += run.picked.size;
      for (const cell of cellsOf.get(run) ?? []) {
        cell.setAttribute("aria-selected", run.picked.has(cell.number));
        const final = run.finals.get(cell.number);
        if (final && !cell.picture.querySelector(`[src="${address(final)}"]`)) {
          cell.picture.querySelector(".ddim-over")?.remove();
          cell.picture.append(overlay(final));
        }
      }
    }
    const drawn = drafts ? `${drafts} draft${drafts > 1 ? "s" : ""}` : "";
    count.textContent = count.title = problem || (picked ? `${picked} of ${drafts} picked` : drawn);
    count.toggleAttribute("data-bad", Boolean(problem));
    button.textContent = picked > 1 ? `Finish ${picked}` : "Finish";
    button.disabled = !picked;
  }

  /** One draft as large as the sheet, over its final where it has one. */
  function look(run, number, cell) {
    const final = run.finals.get(number);
    const draft = run.pictures[number - 1];
    const picture = make(
      "div",
      { class: "ddim-picture", style: shape(run) },
      make("img", { src: address(draft), alt: `Draft ${number}` }),
    );
    const title = `${number} · ${run.labels[number - 1] || seedOf(run, number)}`;
    const close = make("button", { type: "button", title: "Back to the sheet (Escape)" }, "Close");
    const bar = make("div", { class: "ddim-sheet-bar" }, make("span", { class: "ddim-sheet-count" }, title));
    if (final) {
      picture.append(overlay(final));
      const slider = make("input", {
        type: "range",
        min: 0,
        max: 100,
        value: 50,
        "aria-label": "From draft to final",
      });
      slider.addEventListener("input", () => slide(picture, slider.value / 100));
      bar.append("draft", slider, "final");
    }
    bar.append(close);
    const back = () => {
      closeUp.hidden = true;
      closeUp.replaceChildren();
      cell.focus({ preventScroll: true });
    };
    close.addEventListener("click", back);
    closeUp.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Escape") back();
    };
    closeUp.setAttribute("aria-label", title);
    closeUp.replaceChildren(bar, make("div", { class: "ddim-close-up-picture" }, picture));
    closeUp.hidden = false;
    (bar.querySelector("input") ?? close).focus({ preventScroll: true });
  }

  function onKey(event) {
    const cell = event.target;
    if (!cell.matches(".ddim-cell") || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = rows.flat();
    const row = rows.findIndex((each) => each.includes(cell));
    const beside = (step) => all[all.indexOf(cell) + step];
    const below = (step) => {
      const next = rows[row + step];
      return next?.[Math.min(rows[row].indexOf(cell), next.length - 1)];
    };
    const go = {
      ArrowLeft: () => beside(-1),
      ArrowRight: () => beside(1),
      ArrowUp: () => below(-1),
      ArrowDown: () => below(1),
      Home: () => all[0],
      End: () => all.at(-1),
    }[event.key];
    const picked = shown.runs.some((run) => run.picked.size);
    if (go) go()?.focus();
    else if (event.key === " ") toggle(cell.run, cell.number);
    else if (event.key === "Enter") picked ? finishPicked() : finish(cell.run, cell.number);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** One cell takes the focus that Tab brings. */
  function rove(cell) {
    for (const each of scroll.querySelectorAll(".ddim-cell[tabindex='0']")) each.tabIndex = -1;
    if (cell) cell.tabIndex = 0;
  }

  return { element, show, mark };
}

const address = ({ filename, subfolder, type }, file = filename) =>
  api.apiURL(`/view?${new URLSearchParams({ filename: file, subfolder: subfolder ?? "", type })}`);

/** The final over its draft, from the slider on. */
const overlay = (final) =>
  make("img", {
    class: "ddim-over",
    src: address(final),
    alt: "Final",
    decoding: "async",
    draggable: false,
  });

const shape = ({ size: [width, height] }) => `aspect-ratio: ${width} / ${height}; --ratio: ${width / height}`;

const icon = (name) => make("i", { class: `pi ${name}` });

const slide = (picture, share) => picture.style.setProperty("--at", `${100 * share}%`);

const seedOf = (run, number) =>
  run.dials?.[number - 1].seed >= 0 ? `seed ${run.dials[number - 1].seed}` : run.seed;

/**
 * {across, down} where the labels are those of a grid, "eta 0.3, steps 8": the first half the same in each
 * column, the second in each row.
 */
function edgesOf(labels, columns) {
  const halves = labels.map((label) => label.split(", "));
  if (!labels.length || labels.length % columns || halves.some((each) => each.length !== 2)) return;
  const across = halves.slice(0, columns).map(([text]) => text);
  const down = halves.filter((_, i) => i % columns === 0).map(([, text]) => text);
  const fits = halves.every(
    ([right, below], i) => right === across[i % columns] && below === down[Math.floor(i / columns)],
  );
  return fits ? { across, down } : undefined;
}
