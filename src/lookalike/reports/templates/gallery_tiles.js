// Targets and tiles: from the page's JSON to elements. Everything from the data is set as text or as a property,
// never as HTML.

const page = JSON.parse(document.getElementById("data").textContent);
document.getElementById("data").remove(); // megabytes that are not needed twice

const served = location.protocol.startsWith("http"); // by `lookalike view`, which has the full images by their ids

const images = page.images.map(([path, link, id, data, reason]) => ({
  path,
  link: served && !/^https?:/.test(link) ? `image/${id}` : link,
  // WebP, as reports/thumbnails.py writes it.
  thumbnail: data ? `data:image/webp;base64,${data}` : "",
  reason,
  isText: reason === null, // a target that is a text
  name: (reason !== null && path.split(/[\\/]/).pop()) || path,
}));

const chips = new Map(
  [...document.querySelectorAll(".chip")].map((chip) => [
    chip.dataset.outcome,
    { title: chip.dataset.title, words: chip.dataset.words },
  ]),
);

// `hidden`: how many further pairs a target has that are not drawn, by outcome.
const targets = page.targets.map(([row, image, label, rows, hidden], place) => {
  const target = { row, place, label, image: images[image], pairs: [], element: null, filled: false };
  target.hidden = hidden.map(([outcome, count]) => [page.outcomes[outcome], count]);
  target.pairs = rows.map(([source, sourceLabel, rank, distance, score, outcome]) => ({
    owner: target,
    image: images[source],
    path: images[source].path,
    target: target.image.path,
    label: sourceLabel,
    rank,
    distance,
    score,
    outcome: page.outcomes[outcome],
    element: null,
    shown: true,
  }));
  target.kept = target.pairs.filter((pair) => pair.outcome === "kept");
  target.nearest = Math.min(...target.pairs.map((pair) => pair.distance ?? Infinity), Infinity);
  return target;
});

// An image that was selected by its score may be beyond the neighbours that were looked for: it has no rank.
const rankOf = (pair) => (pair.rank === null ? "beyond the nearest" : `rank ${pair.rank}`);

// The pair for which a path was mined: its decision, and where a duplicate's image was kept.
const mined = new Map(targets.flatMap((target) => target.kept).map((pair) => [pair.path, pair]));

// element("button", {className: "keep", onclick: ...}, "Keep", other): properties, then texts and elements inside.
function element(tag, properties = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
}

function shortNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 4);
}

function picture(image, words) {
  if (image.isText) return element("span", { className: "said", dir: "auto" }, image.path);
  if (!image.thumbnail) {
    return element(
      "span",
      { className: "gone", role: "img", "aria-label": `${words}: ${image.reason}` },
      element("b", {}, "no picture"),
      element("span", {}, image.reason),
    );
  }
  return element("img", { src: image.thumbnail, alt: words, decoding: "async", draggable: false });
}

function nameOf(image) {
  if (!image.link) return element("span", { className: "name", title: image.path, dir: "auto" }, image.name);
  return element(
    "a",
    { className: "name", href: image.link, target: "_blank", rel: "noopener noreferrer", title: image.path, dir: "auto", tabIndex: -1 },
    image.name,
  );
}

// An empty place for a target; `fill` draws it when it comes near.
function frame(target) {
  target.element = element("article", { className: "target", id: `target-${target.row}` });
  target.element.setAttribute("aria-label", `Target ${target.row + 1}: ${target.image.name}`);
  return target.element;
}

function fill(target) {
  if (target.filled) return;
  target.filled = true;
  const total = target.hidden.reduce((sum, [, count]) => sum + count, target.pairs.length);
  const tally = element("p", { className: "tally" }, `${target.kept.length} of ${total} kept`);
  target.keepAll = element("button", { type: "button", className: "quiet good small", tabIndex: -1, "aria-label": "Keep all shown of this target" }, "✓ Keep all");
  target.dropAll = element("button", { type: "button", className: "quiet bad small", tabIndex: -1, "aria-label": "Drop all shown of this target" }, "✕ Drop all");
  target.keepAll.dataset.all = "keep";
  target.dropAll.dataset.all = "drop";
  target.query = element(
    "div",
    { className: "query", role: "group", tabIndex: -1, "aria-label": `Target ${target.row + 1}, ${target.image.name}` },
    element("div", { className: "shot" }, picture(target.image, `target ${target.image.name}`)),
    element(
      "div",
      { className: "about" },
      element("p", { className: "number" }, `Target ${target.row + 1}`),
      target.image.isText ? "" : nameOf(target.image),
      target.label === null ? "" : element("p", { className: "tag", dir: "auto" }, target.label),
      tally,
      element("div", { className: "all", hidden: !target.kept.length }, target.keepAll, target.dropAll),
    ),
  );
  target.empty = element("li", { className: "empty", hidden: true });
  const rest = total - target.pairs.length;
  target.rest = element("li", { className: "rest", hidden: true }, `${rest} farther ${rest === 1 ? "pair is" : "pairs are"} not drawn: ${reasons(target.hidden)}.`);
  target.list = element("ol", { className: "neighbours", "aria-label": "Neighbours, nearest first" }, target.empty, target.rest);
  target.element.classList.add("filled");
  target.element.append(target.query, target.list);
  refresh(target);
}

// Draw a tile when it is first shown: dropped pairs are drawn on demand.
function tileOf(pair) {
  if (pair.element) return pair.element;
  const kept = pair.outcome === "kept";
  const outcome = chips.get(pair.outcome) ?? { title: pair.outcome, words: pair.outcome };
  pair.mark = element("span", { className: "verdict-mark", "aria-hidden": "true" });
  const shot = element(
    "div",
    { className: "shot" },
    picture(pair.image, pair.image.name),
    element("span", { className: "rank", "aria-hidden": "true" }, String(pair.rank ?? "+")),
    pair.mark,
  );
  if (kept) {
    pair.keep = element("button", { type: "button", className: "do keep", tabIndex: -1, title: "Keep (y)", "aria-label": "Keep", "aria-pressed": "false" }, "✓");
    pair.drop = element("button", { type: "button", className: "do drop", tabIndex: -1, title: "Drop (x)", "aria-label": "Drop", "aria-pressed": "false" }, "✕");
    pair.keep.dataset.one = "keep";
    pair.drop.dataset.one = "drop";
    shot.append(element("span", { className: "dos" }, pair.keep, pair.drop));
  }
  const numbers = [element("span", { className: "far", title: "distance" }, shortNumber(pair.distance))];
  if (pair.score !== null) numbers.push(element("span", { className: "score", title: "score" }, `score ${shortNumber(pair.score)}`));
  const differs = pair.label !== null && pair.owner.label !== null && !sameLabel(pair.label, pair.owner.label);
  const words = [element("p", { className: "numbers" }, ...numbers)];
  if (pair.label !== null) {
    const tag = element("p", { className: differs ? "tag other" : "tag", dir: "auto" }, pair.label);
    if (differs) tag.title = "another label than the target's";
    words.push(tag);
  }
  if (kept && page.scored) words.push(element("p", { className: "how" }, byScore(pair) ? "by its score" : "for this target"));
  if (!kept) {
    const why = element("p", { className: "why" }, outcome.words);
    const first = mined.get(pair.path);
    if (first && first.owner !== pair.owner) {
      const jump = element("button", { type: "button", className: "jump", tabIndex: -1, title: "Go to where it is kept" }, `kept at target ${first.owner.row + 1}`);
      jump.dataset.jump = "1";
      words.push(why, jump);
    } else words.push(why);
  }
  pair.box = element("div", { className: `tile ${kept ? "kept" : "dropped"}`, role: "group", tabIndex: -1 }, shot, nameOf(pair.image), ...words);
  pair.element = element("li", {}, pair.box);
  pair.box.pair = pair;
  mark(pair);
  return pair.element;
}

function wordsOf(pair) {
  const words = chips.get(pair.outcome)?.words ?? pair.outcome;
  if (pair.outcome !== "kept") return `dropped: ${words}`;
  if (!page.scored) return words;
  return byScore(pair) ? "mined: its score is among the best" : "mined: one of the nearest of this target, which had a claim on it";
}

// Whether the score of a kept image of a selection by score was enough, or the claim of its target kept it.
const byScore = (pair) => page.cutoff !== null && pair.score >= page.cutoff;

// As the label filter compares them: without space around, in any case.
const labelKey = (label) => label.trim().toUpperCase();
const sameLabel = (one, other) => labelKey(one) === labelKey(other);

// Show the decision of a tile that is drawn.
function mark(pair) {
  if (!pair.box) return;
  const decision = pair.outcome === "kept" ? decisions.get(pair.path) : "none";
  pair.box.classList.toggle("chose-keep", decision === "keep");
  pair.box.classList.toggle("chose-drop", decision === "drop");
  pair.mark.textContent = { keep: "✓", drop: "✕", none: "" }[decision];
  pair.keep?.setAttribute("aria-pressed", String(decision === "keep"));
  pair.drop?.setAttribute("aria-pressed", String(decision === "drop"));
  const parts = [rankOf(pair), pair.image.name, `distance ${shortNumber(pair.distance)}`];
  if (pair.label !== null) parts.push(`label ${pair.label}`);
  parts.push(wordsOf(pair));
  if (decision !== "none") parts.push(`your decision: ${decision}`);
  pair.box.setAttribute("aria-label", parts.join(", "));
}

// What stands where no tile is shown: the reasons, because that nothing was kept is worth knowing.
function whyEmpty(target) {
  if (!target.pairs.length && !target.hidden.length) return "The search returned nothing for this target.";
  if (target.kept.length) return "All its neighbours are hidden by the filters.";
  const counts = new Map(target.hidden);
  for (const { outcome } of target.pairs) counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  return `Nothing was kept for this target: ${reasons(counts)}.`;
}

const reasons = (counts) => [...counts].map(([outcome, count]) => `${count} ${chips.get(outcome)?.title ?? outcome}`).join(", ");

// Bring the tiles of a drawn target in line with the filters.
function refresh(target) {
  if (!target.filled) return;
  let shown = 0;
  const wanted = [];
  for (const pair of target.pairs) {
    if (pair.shown) {
      wanted.push(tileOf(pair));
      shown += 1;
    }
  }
  target.empty.textContent = whyEmpty(target);
  target.empty.hidden = shown > 0;
  target.rest.hidden = !target.hidden.some(([outcome]) => filters.outcomes.has(outcome));
  target.list.replaceChildren(...wanted, target.empty, target.rest);
  const some = target.kept.some((pair) => pair.shown);
  target.keepAll.disabled = target.dropAll.disabled = !some;
}
