"""Every number of a `Mining_Report.md`, counted anew from the tables of the run by code of its own."""

import json
import re

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from support.report_contract import sections, table

RULES = ("label_mismatch", "over_distance", "under_similarity", "avoided", "near_duplicate", "over_target_limit",
         "over_label_limit", "less_diverse")  # fmt: skip
#: What the counts of a selection by score call a rule.
DROPPED = {
    "over_budget": "budget", "over_target_limit": "target limit", "over_label_limit": "label limit",
    "near_duplicate": "near-duplicate", "less_diverse": "diversity", "avoided": "avoid",
}  # fmt: skip
METRICS = {"cosine": "cosine", "euclidean": "euclidean", "manhattan": "cityblock"}


class Words:
    """A section without its tables, blocks and pictures, from which every sentence with a number is taken once."""

    def __init__(self, body):
        plain = re.sub(r"^ *```.*?^ *```$", "", body, flags=re.MULTILINE | re.DOTALL)
        plain = re.sub(r"^\|.*$|!\[[^\]]*\]\([^)]*\)|\[[^\]]*\]\([^)]*\)", "", plain, flags=re.MULTILINE)
        # Values in code spans are not counted anywhere; names of rules and settings stay.
        self.left = re.sub(r"(`+)(.+?)(?<!`)\1(?!`)", _name_only, plain, flags=re.DOTALL)

    def take(self, pattern, *expected):
        """Find a sentence; the numbers in it must be these."""
        found = re.search(pattern, self.left)
        assert found, f"{pattern!r} is not in {self.left!r}"
        numbers = [group for group in found.groups() if group is not None]
        assert numbers == [str(one) for one in expected], pattern
        self.left = self.left[: found.start()] + self.left[found.end() :]

    def take_if(self, condition, pattern, *expected):
        """The same, where the sentence has to be there; elsewhere it must not be."""
        if condition:
            self.take(pattern, *expected)
        else:
            assert not re.search(pattern, self.left), f"{pattern!r} is in {self.left!r}"

    def end(self):
        """All numbers were looked at."""
        assert not re.search(r"\d", self.left), f"numbers that nobody counted: {self.left!r}"


def _name_only(span):
    return span[0] if re.fullmatch("[a-z_]+", span[2]) else "`value`"


def digits(value):
    return f"{value:.4g}"


def share(value):
    return f"{value:.0%}" if not 0 < value < 0.01 else "under 1%"


class Truth:
    """The tables of a run, counted."""

    def __init__(self, folder, text):
        self.record = json.loads(folder.record.read_text(encoding="utf-8"))
        self.settings = self.record["settings"]
        self.scored = self.record["selection"]
        self.pairs = pd.read_parquet(folder.pairs).astype({"outcome": str})
        self.mined = pd.read_parquet(folder.mined)
        self.targets, self.pool = pd.read_parquet(folder.targets), pd.read_parquet(folder.pool)
        left_out = pd.read_parquet(folder.excluded) if folder.excluded.exists() else pd.DataFrame({"rule": []})
        self.rules = left_out.rule.value_counts().to_dict()
        self.searched = len(self.pool) - len(left_out)
        self.kept = self.pairs[self.pairs.outcome == "kept"]
        self.outcomes = self.pairs.outcome.value_counts().to_dict() | {"kept": len(self.kept)}
        self.nearest = self.pairs.groupby("target_row").distance.min()
        self.own = set(self.kept.target_row)
        self.shared = self.pairs[self.pairs.outcome.isin(["kept", "duplicate", "near_duplicate"])]
        self.served = set(self.shared.target_row)
        metric = METRICS[self.settings.get("knn_metric", "cosine")]
        vectors = [np.stack(side.embedding.to_numpy()).astype(float) for side in (self.targets, self.pool)]
        # Of larger tables the report takes a sample; then its own number is taken, and what follows from it is checked.
        whole = len(vectors[0]) <= 200 and len(vectors[1]) <= 1000
        self.random = round(float(np.median(cdist(*vectors, metric))), 12) if whole else _said(text)
        self.far = int((self.nearest >= 0.8 * self.random).sum()) if self.random else 0

        self.diagnosis = self.record.get("diagnosis") or {}
        if self.diagnosis:
            self.regions = pd.read_parquet(folder.target_outcomes).region.value_counts().to_dict()
            self._check_near(vectors[1], metric)

    def _check_near(self, pool, metric):
        """How near is near, and which targets have nothing near, by brute force."""
        near = self.diagnosis["near"]
        if not near or near["sample"] < len(pool):
            return
        distances = np.nan_to_num(cdist(pool, pool, metric), nan=1.0)  # a zero vector has distance 1 to everything
        np.fill_diagonal(distances, np.inf)
        nearest = distances.min(axis=1)
        assert abs(near["limit"] - np.quantile(nearest, near["quantile"])) < 1e-6
        if not self.rules:
            has = (self.nearest <= near["limit"]).sum()
            assert self.regions.get("nothing_near", 0) == len(self.targets) - has

    def of_region(self, region):
        """Targets of a region."""
        return int(self.regions.get(region, 0)) if self.diagnosis else 0

    @property
    def found_itself(self):
        """Pairs of a target with its own path."""
        return self.pairs[self.pairs.target_filepath == self.pairs.source_filepath]

    @property
    def served_candidates(self):
        """Targets that are served by one of their own candidates: a selection by score counts no farther."""
        candidates = max(self.settings.get("candidates", 20), self.settings["topn"])
        return self.shared[self.shared["rank"] <= candidates].target_row.nunique()

    @property
    def copies(self):
        """Targets with another path at distance 0."""
        other = self.pairs[(self.pairs.target_filepath != self.pairs.source_filepath) & (self.pairs.distance == 0)]
        return other.target_row.nunique()


def _said(text):
    """The distance of a random pair, as the report has it."""
    found = re.search(r"to a random pool image it is ([\d.e-]+)\.", text)
    return float(found[1]) if found else 0.0


def check_truth(folder):
    """Compare every number of the report with the tables of the run."""
    text = folder.report.read_text(encoding="utf-8")
    found = sections(text)
    truth = Truth(folder, text)
    _check_verdict(found["Verdict"], truth)
    _check_inputs(found["Inputs"], truth)
    _check_run(found["Mining Run"], truth)
    _check_labels(found["Per-Label Breakdown"], truth)
    _check_output(found["Output Sanity"], truth)
    _check_actions(found["Recommended Actions"], truth)


def _check_verdict(body, truth):
    words = Words(body)
    targets, mined, pairs = len(truth.targets), len(truth.mined), len(truth.pairs)
    themselves = len(truth.found_itself[truth.found_itself.outcome == "kept"])
    things = len(re.findall(r"^- ", body, re.MULTILINE))
    eye = re.search(r"; (?:nothing stands out|(\d+) things? needs? a person's eye)\.\*\*", body)
    more = re.search(r"^- … and (\d+) more warnings?", body, re.MULTILINE)
    assert int(eye[1] or 0) == (things - 1 + int(more[1]) if more else things)
    words.left = words.left.replace(eye[0], "")
    if mined:
        words.take(r"\*\*(\d+) images?(?: \((\d+) of them targets themselves\))? mined for (\d+) targets?",
                   mined, *([themselves] if themselves else []), targets)  # fmt: skip
    else:
        words.take(r"\*\*Nothing was mined for (\d+) target", targets)
    words.take(r"For (\d+) targets? the run searched (\d+) pool image", targets, truth.searched)
    words.take_if(truth.rules, r"\((\d+) others? (?:was|were) left out: ", sum(truth.rules.values()))
    for rule, number in truth.rules.items():
        words.take(rf"(\d+) `{rule}`", number)
    topn = truth.record["counts"]["topn"] if truth.searched else truth.settings["topn"]
    words.take(r"\(topn=(\d+), ", topn)
    if truth.scored:
        words.take(r"within a budget of (\d+)\. Of (\d+) pairs? that (?:was|were) looked at, (\d+) (?:is|are) kept",
                   truth.scored["budget"], pairs, mined)  # fmt: skip
    else:
        kept = [share(mined / pairs), mined] if pairs else []
        words.take(r"The search returned (\d+) pairs?(?:; kept: (.+?%), which is (\d+) image)?", pairs, *kept)
    if pairs:
        nearest = "nearest (?:searched )?pool image(?: of its label)?"
        words.take(
            rf"a target to its {nearest} is ([\d.e-]+) \(median over the targets\)", digits(truth.nearest.median())
        )
        words.take(r"to a random pool image it is ([\d.e-]+)\.", digits(truth.random))
    nothing = targets - len(truth.served)
    words.take_if(nothing and mined, r"\*\*(\d+) targets? left with nothing\*\*.*", nothing)
    words.take_if(
        truth.far, r"for (\d+) targets? the nearest .*? is no nearer than 0\.8 times .*? \(([\d.e-]+)\).*", truth.far,
        digits(truth.random),
    )  # fmt: skip
    lacking, used = truth.of_region("nothing_near"), truth.of_region("exhausted")
    limit = [digits(truth.diagnosis["near"]["limit"])] if lacking else []
    words.take_if(
        lacking, r"\*\*The pool lacks what (\d+) targets? shows?\*\*: nothing within ([\d.e-]+), .*", lacking, *limit
    )
    words.take_if(used, r"\*\*(\d+) targets? (?:is|are) in an exhausted region\*\*.*", used)
    itself = truth.found_itself.target_row.nunique()
    words.take_if(itself, r"\*\*(\d+) targets? found in the pool\*\*", itself)
    words.take_if(itself and themselves, r"; (\d+) of them mined as their own neighbour", themselves)
    words.take_if(truth.copies, r"\*\*(\d+) targets? with an equal vector in the pool\*\*.*", truth.copies)
    for side in ("targets", "pool"):
        for reason, number in truth.record[side]["quarantined"].items():
            words.take(rf"(\d+) {reason}", number)
    aside = [sum(truth.record[side]["quarantined"].values()) for side in ("targets", "pool")]
    for noun, number in zip(("target", "pool image"), aside, strict=True):
        words.take_if(number, rf"\*\*(\d+) {noun}s? set aside\*\*", number)
    missing = re.search(r"\*\*(\d) of the first (\d) mined paths are not on the disk\*\*", words.left)
    if missing:
        words.take(re.escape(missing[0]))
    _check_supply(words, truth, r"\*\*The pool is nearly exhausted\*\*.*?: ")
    others = r"^- (?:Warning of the run|\*\*The mined table is empty\*\*|\*\*\d+ hub|.* iteration \d).*$"
    words.left = re.sub(others, "", words.left, flags=re.MULTILINE)
    words.left = words.left.replace("**All distances are 0**", "")
    words.left = re.sub(r"^- … and \d+ more.*$", "", words.left, flags=re.MULTILINE)
    words.end()


def _check_supply(words, truth, start):
    """Why the pool is exhausted, where it is said."""
    mined, searched = len(truth.mined), truth.searched
    if re.search(start + r"\d+ of the \d+ images? that the budget", words.left):
        assert mined < truth.scored["budget"]
        words.take(start + r"(\d+) of the (\d+) images? that the budget allows", mined, truth.scored["budget"])
        rules = {name: number for name, number in truth.outcomes.items() if name in RULES}
        if rules:
            words.take(rf"`{max(rules, key=rules.get)}` stopped")
    elif re.search(start + r".*%", words.left):
        words.take(start + r"(.*?%) of the (\d+) pool images? that may be mined (?:is|are) mined \(limit 80%\)",
                   share(mined / searched), searched)  # fmt: skip
        if not truth.scored:
            duplicates = truth.outcomes.get("duplicate", 0)
            words.take(r"and (.*?%) of the candidates were duplicates of an earlier one \(limit 50%\)",
                       share(duplicates / max(1, duplicates + mined)))  # fmt: skip


def _check_inputs(body, truth):
    for row, side in zip(table(body, "input"), ("targets", "pool"), strict=True):
        record, read = truth.record[side], truth.targets if side == "targets" else truth.pool
        assert int(row["embedded"]) == len(read)
        assert int(row["rows"]) == record["rows"]
        assert int(row["set aside"]) == sum(record["quarantined"].values())
        assert (row["has label"] == "yes") == ("label" in read.columns)


def _check_run(body, truth):
    counts = {row["count"]: int(row["number"]) for row in table(body, "count")}
    outcomes = dict(truth.outcomes)
    expected = {
        "Target queries": len(truth.targets), "Total pairs": len(truth.pairs), "Unique items saved": len(truth.mined),
        "Duplicates removed": outcomes.get("duplicate", 0),
    }  # fmt: skip
    named = {"Dropped by label": "label_mismatch", "Dropped by distance": "over_distance",
             "Dropped by similarity": "under_similarity"}  # fmt: skip
    for title, outcome in named.items():
        if title in counts or outcome in outcomes:
            expected[title] = outcomes.get(outcome, 0)
    for outcome in set(outcomes) - {*named.values(), "kept", "duplicate"}:
        expected[f"Dropped by {DROPPED[outcome]}"] = outcomes[outcome]
    if truth.rules or "Excluded from the pool" in counts:
        expected["Excluded from the pool"] = sum(truth.rules.values())
    topn = next(title for title in counts if title.startswith("Similar items per query"))
    expected[topn] = truth.record["counts"]["topn"]
    # A rule that ran and dropped nothing may be there with a zero.
    assert {name: number for name, number in counts.items() if number or name in expected} == expected
    told = re.findall(r"(\d+) `(\w+)`", re.search(r"Pairs by outcome: (.+?)\. ", body)[1])
    assert {name: int(number) for number, name in told} == outcomes
    if truth.scored:
        found = re.search(r": (\d+) of (\d+) images\. Served, .+?: (\d+) of (\d+) targets?\.", body)
        assert [int(number) for number in found.groups()] == [
            len(truth.mined), truth.scored["budget"], truth.served_candidates, len(truth.targets)
        ]  # fmt: skip
    if "score" in truth.pairs and truth.kept.score.notna().any():
        scores = truth.kept.score
        found = re.search(r"least ([\d.e+-]+), median ([\d.e+-]+), largest ([\d.e+-]+?)\.(?:\s|$)", body)
        assert found.groups() == tuple(digits(one) for one in (scores.min(), scores.median(), scores.max()))
    near = re.search(r"Near is within ([\d.e-]+), .*?: (\d+) targets? ha(?:s|ve) nothing near, (\d+) mostly", body)
    assert bool(near) == bool(truth.diagnosis and truth.diagnosis["near"])
    if near:
        regions = [str(truth.of_region(region)) for region in ("nothing_near", "exhausted")]
        assert list(near.groups()) == [digits(truth.diagnosis["near"]["limit"]), *regions]
    dropped = outcomes.get("label_mismatch", 0)
    filtered = re.search(r"it dropped (\d+) pairs? whose labels differ", body)
    assert not filtered or int(filtered[1]) == dropped > 0


def _check_labels(body, truth):
    labels = truth.targets.label if "label" in truth.targets else pd.Series([None] * len(truth.targets))
    keys = labels.map(lambda label: "(NO LABEL)" if pd.isna(label) else str(label).strip().upper())
    rows = {row["label"].strip().upper(): row for row in table(body, "label")}
    cut = {key for key in rows if "…" in key}  # shown shorter than it is, so that it cannot be told which one it is
    assert set(rows) - cut <= set(keys)
    sums = np.zeros(5, int)
    for key, mine in keys.groupby(keys).groups.items():
        of_label = truth.kept[truth.kept.target_row.isin(mine)]
        without, nothing = (len(set(mine) - some) for some in (truth.own, truth.served))
        numbers = [len(mine), len(of_label), without, nothing]
        if key not in rows:
            sums += [1, *numbers]
            continue
        row = rows[key]
        assert [int(row[name]) for name in ("targets", "mined", "no own row", "nothing")] == numbers
        distances = of_label.distance
        expected = [digits(distances.min()), digits(distances.median())] if len(distances) else ["–", "–"]
        assert [row["best"], row["median"]] == expected
    if sums[0] and not cut:
        rest = (
            r"The other (\d+) label(?:s have| has) (\d+) targets? and (\d+) mined; "
            r"(\d+) of them have no own row, (\d+) nothing"
        )
        found = re.search(rest, body)
        assert [int(number) for number in found.groups()] == sums.tolist()


def _check_output(body, truth):
    words = Words(body)
    paths = truth.mined.filepath
    words.take(r"has (\d+) rows?", len(paths))
    if len(paths):
        assert f"First {min(5, len(paths))} path" in body
    known = {
        "with letters beyond ASCII": (~paths.map(str.isascii)).sum(),
        "with blanks": paths.str.contains(r"\s").sum(),
        "relative": (~paths.str.contains(r"^(?:/|[A-Za-z][A-Za-z0-9+.-]*://)")).sum(),
    }
    for text, number in known.items():
        words.take_if(number, rf"(\d+) {text}", number)


def _check_actions(body, truth):
    words = Words(body)
    mined, searched = len(truth.mined), truth.searched
    words.take_if(mined, r"Look through the (\d+) mined image", mined)
    left = re.search(r"No: (\d+) pool images? that may be mined (?:is|are) not mined yet", words.left)
    if left:
        assert int(left[1]) == searched - mined > 0
        words.take(re.escape(left[0]))
    _check_supply(words, truth, r"Yes: ")
    if truth.far:
        words.take(r"Yes: (\d+) targets? with no .*?pool image.*? nearer than ([\d.e-]+)\.", truth.far,
                   digits(0.8 * truth.random))  # fmt: skip
    words.take_if("The budget of" in body, r"The budget of (\d+) is less", (truth.scored or {}).get("budget"))
    why = re.search(r"the search returned (\d+) pairs?, and the rule `(\w+)` alone dropped (\d+)", words.left)
    if why:
        assert int(why[1]) == len(truth.pairs)
        assert int(why[3]) == truth.outcomes[why[2]] == max(truth.outcomes.values())
        words.take(re.escape(why[0]))
    words.left = re.sub(r"all \d+ pool images? (?:was|were) left out before the search.*", "", words.left)
    words.left = re.sub(r"(?s)How to read a distance.*", "", words.left)
    words.end()
