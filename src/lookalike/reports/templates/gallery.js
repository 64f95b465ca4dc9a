// The page at work: drawing what comes near, moving, deciding, looking closer, importing and exporting.

const decisions = new Decisions(page.run, redecided);
const place = new Map([...mined.keys()].map((path, number) => [path, number]));
const near = new IntersectionObserver(
  (entries) => entries.forEach((entry) => entry.isIntersecting && fill(targets[entry.target.place])),
  { rootMargin: "1200px 0px" },
);
let listed = []; // the targets that are shown, in order
let current = null; // the pair, or the target without a tile, that the keys act on

// ---- drawing ----

function list() {
  const focused = control("targets").contains(document.activeElement);
  listed = filtered();
  for (const target of targets) refresh(target);
  control("targets").replaceChildren(...listed.map((target) => target.element));
  drawHistogram();
  const next = current && listed.includes(ownerOf(current)) && isShown(current) ? current : nearby(current);
  listed.forEach((target, at) => (target.at = at));
  if (next !== current || focused) select(next, { focus: focused });
}

// Where to go when the current image is filtered away: what took its place.
function nearby(stop) {
  if (!listed.length) return null;
  if (!stop) return stops(listed[0])[0];
  const owner = ownerOf(stop);
  if (!listed.includes(owner)) return stops(listed[Math.min(owner.at, listed.length - 1)])[0];
  const there = stops(owner);
  return there.find((pair) => owner.pairs.indexOf(pair) > owner.pairs.indexOf(stop)) ?? there.at(-1);
}

const ownerOf = (stop) => stop.owner ?? stop;
const isShown = (stop) => (stop.owner ? stop.shown : !stop.pairs.some((pair) => pair.shown));
// Where the keys can stop in a target: its tiles, or itself where it has none.
const stops = (target) => {
  const shown = target.pairs.filter((pair) => pair.shown);
  return shown.length ? shown : [target];
};
const boxOf = (stop) => {
  fill(ownerOf(stop));
  return stop.owner ? tileOf(stop) && stop.box : stop.query;
};

function select(stop, { focus = true } = {}) {
  if (current) {
    const before = boxOf(current);
    before.tabIndex = -1;
    before.classList.remove("current");
    controlsOf(current).forEach((one) => (one.tabIndex = -1));
  }
  current = stop;
  control("copy").disabled = control("look").disabled = !stop;
  control("open").hidden = !stop?.image.link;
  control("current-path").textContent = stop ? stop.image.path : "";
  control("current-facts").textContent = stop ? factsOf(stop) : "";
  if (!stop) return;
  if (stop.image.link) control("open").href = stop.image.link;
  const box = boxOf(stop);
  box.tabIndex = 0;
  box.classList.add("current");
  controlsOf(stop).forEach((one) => (one.tabIndex = 0));
  if (focus) {
    box.focus({ preventScroll: true });
    box.scrollIntoView({ block: "nearest", behavior: "instant" });
  }
}

// What Tab reaches: the controls of the current tile and of its target.
function controlsOf(stop) {
  const owner = ownerOf(stop);
  const boxes = stop.owner ? [owner.query, stop.box] : [owner.query];
  return boxes.flatMap((box) => [...box.querySelectorAll("a, button")]);
}

function factsOf(stop) {
  if (!stop.owner) return `target ${stop.row + 1}${stop.label === null ? "" : ` · ${stop.label}`}`;
  const parts = [`target ${stop.owner.row + 1}, ${rankOf(stop)}`, `distance ${shortNumber(stop.distance)}`];
  if (stop.score !== null) parts.push(`score ${shortNumber(stop.score)}`);
  if (stop.label !== null) parts.push(stop.label);
  const decision = stop.outcome === "kept" ? decisions.get(stop.path) : "none";
  parts.push(decision === "none" ? wordsOf(stop) : `you: ${decision}`);
  return parts.join(" · ");
}

// ---- moving ----

function move(step) {
  if (!current) return;
  const owner = ownerOf(current);
  const here = stops(owner);
  const at = here.indexOf(current) + step;
  if (at >= 0 && at < here.length) return select(here[at]);
  const next = listed[owner.at + step];
  if (next) select(stops(next).at(step > 0 ? 0 : -1));
}

function moveTarget(step) {
  if (!current) return;
  const owner = ownerOf(current);
  const next = listed[Math.min(Math.max(owner.at + step, 0), listed.length - 1)];
  const column = Math.max(0, stops(owner).indexOf(current));
  const there = stops(next);
  if (next !== owner) select(there[Math.min(column, there.length - 1)]);
}

// ---- deciding ----

function decide(decision) {
  if (!current?.owner) return say("This is a target: move to one of its images.");
  if (current.outcome !== "kept") return say(`The run dropped this pair (${chips.get(current.outcome)?.title}): only mined images are decided.`);
  const pair = current;
  decisions.set([pair], decision);
  say(`${decision === "keep" ? "Keep" : "Drop"} ${pair.image.name}: ${tallyWords()}`);
  if (current === pair) move(1);
  if (control("closer").open) showCloser();
}

function decideAll(target, decision) {
  const pairs = target.kept.filter((pair) => pair.shown);
  if (!pairs.length) return say("No mined image of this target is shown.");
  decisions.set(pairs, decision);
  say(`${decision === "keep" ? "Keep" : "Drop"} ${pairs.length} of target ${target.row + 1}: ${tallyWords()}`);
}

function undo() {
  const step = decisions.undo();
  if (!step) return say("Nothing to undo.");
  const pair = mined.get(step[0][0]);
  if (pair && listed.includes(pair.owner) && pair.shown) select(pair);
  say(`Undone: ${tallyWords()}`);
  if (control("closer").open) showCloser();
}

// Called whenever decisions change, here or in another page of this run.
function redecided(paths) {
  for (const path of paths) if (mined.has(path)) mark(mined.get(path));
  if (current) control("current-facts").textContent = factsOf(current);
  if (filters.decision) list();
  showTally();
}

function counted() {
  let keep = 0;
  let drop = 0;
  for (const path of mined.keys()) {
    const decision = decisions.get(path);
    keep += decision === "keep";
    drop += decision === "drop";
  }
  return { keep, drop, open: mined.size - keep - drop };
}

function tallyWords() {
  const { open } = counted();
  return open ? `${open.toLocaleString("en")} to decide.` : "all decided.";
}

function showTally() {
  const { keep, drop, open } = counted();
  control("tally").replaceChildren(
    element("b", { className: "good" }, `✓ ${keep.toLocaleString("en")}`), " keep  ",
    element("b", { className: "bad" }, `✕ ${drop.toLocaleString("en")}`), " drop  ",
    element("b", {}, open.toLocaleString("en")), " open",
  );
  const all = Math.max(1, mined.size);
  control("meter-keep").style.width = `${(100 * keep) / all}%`;
  control("meter-drop").style.width = `${(100 * drop) / all}%`;
  control("undo").disabled = !decisions.history.length;
  control("export").disabled = !decisions.rows.size;
  control("unkept").hidden = decisions.kept || !decisions.rows.size;
}

let silence = 0;
function say(words, milliseconds = 3500) {
  const toast = control("toast");
  toast.textContent = words;
  toast.classList.add("on");
  clearTimeout(silence);
  silence = setTimeout(() => toast.classList.remove("on"), milliseconds);
}

// ---- looking closer ----

function look() {
  if (!current) return;
  if (!control("closer").open) control("closer").showModal();
  showCloser();
}

function showCloser() {
  const owner = ownerOf(current);
  showLarge("target", owner.image, `Target ${owner.row + 1}${owner.label === null ? "" : ` · ${owner.label}`}`);
  control("closer-source").parentElement.hidden = !current.owner;
  if (current.owner) showLarge("source", current.image, `${rankOf(current).replace(/^./, (first) => first.toUpperCase())}${current.label === null ? "" : ` · ${current.label}`}`);
  control("closer-facts").textContent = factsOf(current);
  control("closer-keep").disabled = control("closer-drop").disabled = current.outcome !== "kept";
}

// The full image; where the browser cannot show it (gone, or TIFF), the small one.
function showLarge(side, image, words) {
  const shown = control(`closer-${side}`);
  shown.alt = `${words}: ${image.name}`;
  shown.onerror = () => {
    shown.onerror = null;
    if (image.thumbnail) shown.src = image.thumbnail;
    else shown.removeAttribute("src");
  };
  if (image.link || image.thumbnail) shown.src = image.link || image.thumbnail;
  control(`closer-${side}-text`).textContent = `${words} · ${image.name}${image.thumbnail ? "" : ` · ${image.reason}`}`;
}

// ---- copying, exporting, importing ----

async function copyPath() {
  if (!current) return;
  const path = current.image.path;
  try {
    await navigator.clipboard.writeText(path);
    say("Path copied.");
  } catch {
    getSelection().selectAllChildren(control("current-path"));
    say(document.execCommand("copy") ? "Path copied." : "The path is selected: copy it with Ctrl+C.");
  }
}

function exportCsv() {
  const order = (path) => place.get(path) ?? Infinity;
  const text = decisions.csv((path) => Math.min(order(path), Number.MAX_SAFE_INTEGER));
  const link = element("a", {
    href: URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" })),
    download: `decisions_${page.name.replaceAll(/[^\w.-]+/g, "_")}.csv`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  decisions.unsaved = false;
  // Long enough to be read; the help has the command, too, to be copied.
  say(`Exported ${decisions.rows.size} decisions. In the folder of the file: ${page.review} ${link.download}`, 15_000);
}

async function importCsv(file) {
  const [head = [], ...rows] = readCsv(await file.text());
  const path = head.indexOf("filepath");
  const decision = head.indexOf("decision");
  if (path < 0 || decision < 0) return say("Not taken: the file has no columns filepath and decision.");
  const decided = rows.filter((row) => row[path] && ["keep", "drop"].includes(row[decision]));
  const known = decided.filter((row) => mined.has(row[path]));
  // A page that shows the whole run knows every mined image; one of several keeps what the others may show.
  const others = page.whole ? [] : decided.filter((row) => !mined.has(row[path]));
  const columns = COLUMNS.slice(2).map((name) => head.indexOf(name));
  if (others.length) decisions.take(others.map((row) => [row[path], [row[decision], ...columns.map((at) => row[at] ?? "")]]));
  for (const word of ["keep", "drop"]) {
    const pairs = known.filter((row) => row[decision] === word).map((row) => mined.get(row[path]));
    if (pairs.length) decisions.set(pairs, word);
  }
  const left = rows.length - known.length - others.length;
  const words = [`Imported ${known.length + others.length} decisions`];
  if (others.length) words.push(`, ${others.length} of them of other pages`);
  if (left) words.push(`; ${left} rows ${page.whole ? "are not of this page" : "hold no decision"} and were left out`);
  say(`${words.join("")}. ${tallyWords()}`);
}

// ---- keys ----

const KEYS = {
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => moveTarget(1), ArrowUp: () => moveTarget(-1),
  Home: () => listed.length && select(stops(listed[0])[0]), End: () => listed.length && select(stops(listed.at(-1))[0]),
  Enter: () => decide("keep"), " ": () => (control("closer").open ? control("closer").close() : look()),
}; // prettier-ignore
const LETTERS = {
  l: () => move(1), h: () => move(-1), j: () => moveTarget(1), k: () => moveTarget(-1),
  y: () => decide("keep"), x: () => decide("drop"), u: undo, c: copyPath, d: toggleDropped,
  Y: () => current && decideAll(ownerOf(current), "keep"), X: () => current && decideAll(ownerOf(current), "drop"),
  o: () => current?.image.link && control("open").click(),
  "/": () => control("search").focus(), "?": () => control("help").showModal(),
}; // prettier-ignore

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || control("help").open) return;
  const at = event.target instanceof Element ? event.target : document.body;
  if (at.matches("input:not([type=checkbox]), select, textarea, summary")) {
    if (event.key === "Escape" && at.id === "search") leaveSearch();
    return;
  }
  const onControl = at.matches("button, a, input");
  if (onControl && (event.key === "Enter" || event.key === " ")) return; // it does what it says
  const single = control("shortcuts").checked;
  // Caps Lock makes other letters of the same keys: Shift tells one image from all of a target.
  const letter = event.shiftKey ? event.key.toUpperCase() : event.key.toLowerCase();
  const work = KEYS[event.key] ?? (single ? LETTERS[letter] : undefined);
  if (!work) return;
  // Where nothing of the gallery has the focus, the first move only shows where one is.
  const lost = (at === document.body || at.id === "targets") && current && (event.key.startsWith("Arrow") || "hjkl".includes(letter));
  event.preventDefault();
  if (lost) select(current);
  else work();
  if (control("closer").open && current) showCloser();
});

function leaveSearch() {
  list(); // what was typed may not be applied yet
  if (current) select(current);
}

function toggleDropped() {
  const dropped = [...document.querySelectorAll(".chip")].filter((chip) => chip.dataset.outcome !== "kept");
  if (!dropped.length) return say("This run dropped nothing.");
  const show = dropped.some((chip) => chip.getAttribute("aria-pressed") !== "true");
  dropped.forEach((chip) => chip.setAttribute("aria-pressed", String(show)));
  pressed();
  list();
}

function pressed() {
  const button = control("dropped");
  if (!button) return;
  const dropped = [...document.querySelectorAll(".chip")].filter((chip) => chip.dataset.outcome !== "kept");
  button.setAttribute("aria-pressed", String(dropped.every((chip) => chip.getAttribute("aria-pressed") === "true")));
}

// ---- mouse and touch ----

control("targets").addEventListener("click", (event) => {
  const box = event.target.closest(".tile, .query");
  if (!box || event.target.closest("a")) return;
  const target = targets[box.closest(".target").place];
  const button = event.target.closest("button");
  if (button?.dataset.all) return decideAll(target, button.dataset.all);
  if (button?.dataset.jump) return jump(mined.get(box.pair.path));
  if (!button) return select(box.pair ?? target);
  // A second press takes the decision back.
  const again = decisions.get(box.pair.path) === button.dataset.one;
  decisions.set([box.pair], again ? "none" : button.dataset.one);
});
control("targets").addEventListener("dblclick", (event) => event.target.closest(".shot") && look());
control("targets").addEventListener("focusin", (event) => {
  const box = event.target.closest(".tile, .query");
  const stop = box && (box.pair ?? targets[box.closest(".target").place]);
  // Its target's controls belong to the current tile.
  if (stop && stop !== current && (event.target === box || box.pair)) select(stop, { focus: false });
});

function jump(pair) {
  if (!pair.shown || !listed.includes(pair.owner)) clear();
  select(pair);
}

function clear() {
  for (const name of ["search", "label", "decision"]) control(name).value = "";
  control("distance").value = String(STEPS);
  document.querySelector(".chip[data-outcome=kept]").setAttribute("aria-pressed", "true");
  list();
}

// ---- colours ----

const isDark = () => document.documentElement.dataset.theme === "dark";
function nameTheme() {
  control("theme-name").textContent = isDark() ? "Light" : "Dark";
  drawHistogram();
}
control("theme").addEventListener("click", () => {
  const wanted = isDark() ? "light" : "dark";
  remember("lookalike:theme", wanted);
  chooseTheme(wanted);
});
document.addEventListener("lookalike:theme", nameTheme);

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // It holds until the page is closed.
  }
}

// ---- beginning ----

let waiting = 0;
for (const [name, kind] of [["search", "input"], ["distance", "input"], ["label", "change"], ["decision", "change"], ["sort", "change"]]) {
  control(name).addEventListener(kind, () => {
    cancelAnimationFrame(waiting); // one drawing a frame, however fast the slider moves
    waiting = requestAnimationFrame(list);
  });
}
control("search").addEventListener("keydown", (event) => event.key === "Enter" && leaveSearch());
for (const chip of document.querySelectorAll(".chip")) {
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    pressed();
    list();
  });
}
control("dropped")?.addEventListener("click", toggleDropped);
control("reset").addEventListener("click", clear);
control("copy").addEventListener("click", copyPath);
control("look").addEventListener("click", look);
control("undo").addEventListener("click", undo);
control("export").addEventListener("click", exportCsv);
control("import").addEventListener("click", () => control("import-file").click());
control("import-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be taken again
  if (file) await importCsv(file);
});
control("help-open").addEventListener("click", () => control("help").showModal());
control("closer-back").addEventListener("click", () => (move(-1), showCloser()));
control("closer-next").addEventListener("click", () => (move(1), showCloser()));
control("closer-keep").addEventListener("click", () => decide("keep"));
control("closer-drop").addEventListener("click", () => decide("drop"));
control("closer-close").addEventListener("click", () => control("closer").close());
control("closer").addEventListener("close", () => current && select(current));
control("shortcuts").addEventListener("change", (event) => remember("lookalike:shortcuts", event.target.checked ? "on" : "off"));
window.addEventListener("beforeunload", (event) => {
  if (!decisions.kept && decisions.unsaved && decisions.rows.size) event.preventDefault();
});

try {
  control("shortcuts").checked = localStorage.getItem("lookalike:shortcuts") !== "off";
} catch {
  // As it is.
}
fillLabels();
for (const target of targets) {
  frame(target).place = target.place;
  near.observe(target.element);
}
list();
nameTheme();
showTally();
