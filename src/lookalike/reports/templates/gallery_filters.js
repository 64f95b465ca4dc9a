// Filters and order: which pairs and targets are shown. Reads the controls, marks `shown`, and puts targets in order.

const control = (name) => document.getElementById(name);
const STEPS = 200;
const distances = targets.flatMap((target) => target.pairs.map((pair) => pair.distance)).filter((value) => value !== null);
const least = distances.reduce((one, other) => Math.min(one, other), Infinity);
const most = distances.reduce((one, other) => Math.max(one, other), -Infinity);

const filters = { search: "", label: "", decision: "", sort: "order", distance: Infinity, outcomes: new Set(["kept"]) };

function readControls() {
  filters.search = control("search").value.trim().toLowerCase();
  filters.label = control("label").value;
  filters.decision = control("decision").value;
  filters.sort = control("sort").value;
  const step = Number(control("distance").value);
  // The last step is no bound at all, so that rounding can hide nothing.
  filters.distance = step >= STEPS ? Infinity : least + ((most - least) * step) / STEPS;
  const words = distances.length ? `${step >= STEPS ? "" : "≤ "}${shortNumber(Math.min(filters.distance, most))}` : "–";
  control("distance-shown").textContent = words;
  control("distance").setAttribute("aria-valuetext", `distance up to ${shortNumber(Math.min(filters.distance, most))}`);
  filters.outcomes = new Set();
  for (const chip of document.querySelectorAll(".chip")) {
    if (chip.getAttribute("aria-pressed") === "true") filters.outcomes.add(chip.dataset.outcome);
  }
}

function passes(pair) {
  if (!filters.outcomes.has(pair.outcome)) return false;
  if (pair.distance !== null && pair.distance > filters.distance) return false;
  if (filters.label.startsWith("source:") && !hasLabel(pair, filters.label.slice(7))) return false;
  if (filters.decision && (pair.outcome !== "kept" || decisions.get(pair.path) !== filters.decision)) return false;
  return !filters.search || found(pair.image) || found(pair.owner.image);
}

const hasLabel = (one, label) => one.label !== null && sameLabel(one.label, label);
const found = (image) => (image.lower ??= image.path.toLowerCase()).includes(filters.search);

// A target without a tile stays where nobody asked for certain tiles: that nothing was kept is worth knowing.
function targetPasses(target) {
  if (filters.label.startsWith("target:") && !hasLabel(target, filters.label.slice(7))) return false;
  if (target.pairs.some((pair) => pair.shown)) return true;
  const asked = filters.decision || filters.label.startsWith("source:") || filters.distance !== Infinity;
  return !asked && (!filters.search || found(target.image));
}

const ORDERS = {
  order: (one, other) => one.place - other.place,
  nearest: (one, other) => one.nearest - other.nearest || one.place - other.place,
  farthest: (one, other) => other.nearest - one.nearest || one.place - other.place,
  most: (one, other) => other.kept.length - one.kept.length || one.place - other.place,
  fewest: (one, other) => one.kept.length - other.kept.length || one.place - other.place,
};

// Apply the controls; returns the targets to show, in order.
function filtered() {
  readControls();
  for (const target of targets) for (const pair of target.pairs) pair.shown = passes(pair);
  const shown = targets.filter(targetPasses).sort(ORDERS[filters.sort]);
  const pairs = shown.reduce((sum, target) => sum + target.pairs.filter((pair) => pair.shown).length, 0);
  control("shown").textContent =
    `${shown.length.toLocaleString("en")} of ${targets.length.toLocaleString("en")} targets, ` +
    `${pairs.toLocaleString("en")} ${pairs === 1 ? "image" : "images"}`;
  control("nothing").hidden = shown.length > 0;
  control("reset").hidden = !(filters.search || filters.label || filters.decision || filters.distance !== Infinity);
  return shown;
}

function fillLabels() {
  // Labels that the run's filter takes for one are one choice, named as it is spelled first.
  const names = (labels) => {
    const first = new Map();
    for (const label of labels) if (label !== null && !first.has(labelKey(label))) first.set(labelKey(label), label);
    return [...first.keys()].sort().map((key) => first.get(key));
  };
  const groups = [
    ["of the target", "target:", names(targets.map((target) => target.label))],
    ["of the neighbour", "source:", names(targets.flatMap((target) => target.pairs.map((pair) => pair.label)))],
  ];
  for (const [title, prefix, labels] of groups) {
    if (!labels.length) continue;
    const options = labels.map((label) => element("option", { value: prefix + label }, label));
    control("label").append(element("optgroup", { label: title }, ...options));
  }
  control("label").disabled = !groups.some(([, , labels]) => labels.length);
  control("distance").disabled = !(most > least);
}

// How many pairs there are at each distance, behind the slider; darker: within the bound.
function drawHistogram() {
  const canvas = control("histogram");
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const bins = new Array(50).fill(0);
  for (const value of distances) bins[Math.min(49, Math.floor((50 * (value - least)) / (most - least || 1)))] += 1;
  const highest = Math.max(1, ...bins);
  const width = canvas.width / bins.length;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  bins.forEach((count, bin) => {
    const inside = least + ((most - least) * bin) / 50 <= filters.distance;
    pen.fillStyle = style.getPropertyValue(inside ? "--bar" : "--line");
    const height = count ? Math.max(2, (canvas.height * count) / highest) : 0;
    pen.fillRect(bin * width, canvas.height - height, width - 1.5, height);
  });
}
