// Decisions: what the user wants with each mined image. Kept in the browser under the run's identity, undone step by
// step, written and read as CSV. A decision belongs to a path: a run mines each path once.

const COLUMNS = ["filepath", "decision", "target_filepath", "rank", "distance"];

class Decisions {
  constructor(run, changed) {
    this.key = `lookalike:decisions:${run}`;
    this.changed = changed; // called with the paths whose decision is another one now
    this.kept = true; // whether the browser keeps them
    this.unsaved = false; // whether closing the page would lose something
    this.history = [];
    this.rows = new Map(); // path -> [decision, target path, rank, distance]
    this.load();
    // Another page of the same run may be open beside this one.
    window.addEventListener("storage", (event) => {
      if (event.key !== this.key) return;
      const before = new Map(this.rows);
      this.load();
      this.changed([...new Set([...before.keys(), ...this.rows.keys()])]);
    });
  }

  load() {
    try {
      this.rows = new Map(JSON.parse(localStorage.getItem(this.key) || "[]"));
    } catch {
      this.kept = false; // pages from disk may be forbidden to keep anything
    }
  }

  get(path) {
    return this.rows.get(path)?.[0] ?? "none";
  }

  // Set `decision` ("keep", "drop" or "none") for pairs: {path, target, rank, distance}. One step of undoing.
  set(pairs, decision) {
    this.history.push(pairs.map((pair) => [pair.path, this.rows.get(pair.path)]));
    this.apply(
      pairs.map((pair) => [
        pair.path,
        decision === "none" ? undefined : [decision, pair.target, pair.rank, pair.distance],
      ]),
    );
  }

  // Take rows of a file as they are, of images that this page does not show: other pages of the run do. One step.
  take(rows) {
    this.history.push(rows.map(([path]) => [path, this.rows.get(path)]));
    this.apply(rows);
  }

  undo() {
    const step = this.history.pop();
    if (step) this.apply(step);
    return step;
  }

  apply(changes) {
    // What is stored is read again first, so that two open pages do not undo each other.
    if (this.kept) this.load();
    for (const [path, row] of changes) {
      if (row) this.rows.set(path, row);
      else this.rows.delete(path);
    }
    this.unsaved = true;
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.rows]));
      this.kept = true;
    } catch {
      this.kept = false;
    }
    this.changed(changes.map(([path]) => path));
  }

  csv(order) {
    const rows = [...this.rows].sort(([one], [other]) => order(one) - order(other));
    const lines = rows.map(([path, [decision, target, rank, distance]]) =>
      [path, decision, target, rank ?? "", distance ?? ""].map(quoted).join(","),
    );
    return [COLUMNS.join(","), ...lines].join("\r\n") + "\r\n";
  }
}

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// The rows of a CSV text (RFC 4180), each a list of texts.
function readCsv(text) {
  const rows = [];
  let row = [];
  let cell = "";
  let inside = false;
  const end = () => {
    row.push(cell);
    cell = "";
  };
  const source = text.replace(/^\ufeff/, "");
  for (let at = 0; at < source.length; at++) {
    const letter = source[at];
    if (inside) {
      if (letter !== '"') cell += letter;
      else if (source[at + 1] === '"') cell += source[++at];
      else inside = false;
    } else if (letter === '"') inside = true;
    else if (letter === ",") end();
    else if (letter === "\n" || letter === "\r") {
      if (letter === "\r" && source[at + 1] === "\n") at++;
      end();
      rows.push(row);
      row = [];
    } else cell += letter;
  }
  if (cell || row.length) {
    end();
    rows.push(row);
  }
  return rows.filter((cells) => cells.length > 1 || cells[0]);
}
