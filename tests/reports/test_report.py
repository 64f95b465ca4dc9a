"""`Mining_Report.md`: the contract's sections and lengths in every case, true numbers, values that cannot break it."""

import json
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt

from lookalike.errors import TableError
from lookalike.reports.plots import write_plots
from lookalike.reports.report import write_report
from lookalike.tables.run_folder import RunFolder
from support.embeddings import identity
from support.recommended import mined_by, settings_of
from support.report_contract import check_report, sections, table
from support.report_truth import check_truth
from support.runs import make_run

LONG = "/" + "/".join("a folder with a rather long name" for _ in range(12))


def names(stem, count, folder="/nowhere"):
    return [f"{folder}/{stem}_{number:05d}.png" for number in range(count)]


def unseen(targets, pool, folder="/nowhere"):
    """Paths that are not on the disk, so that no pictures are made."""
    return {"target_paths": names("t", targets, folder), "pool_paths": names("p", pool, folder)}


def edit(folder, **changes):
    """Change fields of `run.json`; `targets__kind` is a field of the targets."""
    record = json.loads(folder.record.read_text())
    for key, value in changes.items():
        *parents, name = key.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[name] = value
    folder.record.write_text(json.dumps(record))


def forget_encoder(*paths):
    for path in paths:
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def report_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def many_labels(place, **more):
    labels = [f"class {number % 2500:04d} of some product" for number in range(3000)]
    return make_run(place, **unseen(3000, 80), target_labels=labels, pool_labels=["x"] * 80, filter_by_label="true",
                    **more)  # fmt: skip


def many_warnings(place, **more):
    warnings = [f"warning {number} about {LONG} and what it means for the result" for number in range(60)]
    return make_run(place, warnings=warnings, **unseen(4, 20), **more)


def everything_wrong(place, **more):
    """Every finding at once, with paths and labels of many words."""
    labels = [" ".join("abcdefghijklmnopqrstuvwxyz") + str(number) for number in range(300)]
    words = " ".join("a" * 150)
    paths = unseen(300, 30, f"/{words}")
    paths["pool_paths"][0] = paths["target_paths"][0]
    random = np.random.default_rng(0)
    vectors = random.standard_normal((300, 64)), np.concatenate([np.zeros((1, 64)), random.standard_normal((29, 64))])
    warnings = [f"{words} {number}" for number in range(40)]
    folder = make_run(
        place, **paths, target_labels=labels, vectors=vectors, warnings=warnings, filter_by_label="true", topn=5,
        **more,
    )  # fmt: skip
    bad = dict.fromkeys(("missing", "unreadable", "truncated", "too_large", "not_an_image", "bad_vector"), 3)
    edit(folder, targets__quarantined=bad, pool__quarantined=bad, targets__path=f"/{words}", pool__path=f"/{words}",
         command=["lookalike", "mine", *words.split()], model_path=words)  # fmt: skip
    return folder


def everything_told(place, **more):
    """Every finding of the diagnosis on top of that."""
    folder = everything_wrong(place, **more)
    words = " ".join("a" * 150)
    region = {"count": 300, "first": [f"/{words}"] * 5, "labels": dict.fromkeys((f"{words} {n}" for n in range(5)), 60)}
    distances = {"then": 0.123456, "now": 0.654321, "superiority": 0.987654}
    images = [{"source_row": row, "filepath": f"/{words}", "targets": 300, "mined": True} for row in range(10)]
    labels = [{"label": f"{words} {n}", "targets": [9, 9], "mined": [99, 1]} for n in range(20)]
    drift = {"iteration": 99, "mined": [999, 99], "nearest": distances, "kept": distances, "labels": labels,
             "targets": {"distance": 0.54321, "by_chance": 0.012345, "chance": 0.001}}  # fmt: skip
    edit(folder, diagnosis={
        "k": 20, "near": {"limit": 0.123456, "quantile": 0.99, "sample": 500}, "nothing_near": region,
        "exhausted": region, "hubs": {"skewness": 12.3456, "by_chance": 1.23456, "images": images}, "drift": drift,
    })  # fmt: skip
    return folder


SHAPES = {
    "plain": make_run,
    "one of each": lambda place, **more: make_run(place, **more, targets=1, pool=1, topn=1, dimension=1),
    "labels": lambda place, **more: make_run(
        place, **more, target_labels=["a", "b", "a", None], pool_labels=["a", "b"] * 10
    ),
    "no-op, labels missing": lambda place, **more: make_run(place, **more, filter_by_label="true"),
    "no-op, nothing dropped": lambda place, **more: make_run(
        place, **more, target_labels=["a"] * 4, pool_labels=["A "] * 20, filter_by_label="true"
    ),
    "empty by distance": lambda place, **more: make_run(place, **more, distance_threshold=0.0),
    "empty by label": lambda place, **more: make_run(
        place, **more, target_labels=["a"] * 4, pool_labels=["b"] * 20, filter_by_label="true"
    ),
    "no pairs": lambda place, **more: make_run(
        place, **more, target_labels=["a"] * 4, pool_labels=["b"] * 20, within_label=True
    ),
    "thousands of labels": many_labels,
    "many warnings": many_warnings,
    "many warnings, one label": lambda place, **more: many_warnings(
        place, target_labels=["a"] * 4, pool_labels=["a"] * 20, **more
    ),
    "long paths": lambda place, **more: make_run(place, **more, **unseen(40, 60, LONG), topn=5),
    "everything wrong": everything_wrong,
    "everything told": everything_told,
    "pool exhausted": lambda place, **more: make_run(place, **more, targets=30, pool=5, topn=5),
    "all equal": lambda place, **more: make_run(place, **more, vectors=(np.ones((4, 8)), np.ones((20, 8)))),
    "targets are the pool": lambda place, **more: make_run(
        place, **more, target_paths=names("p", 12), pool_paths=names("p", 12), vectors=(np.eye(12), np.eye(12))
    ),
    "euclidean": lambda place, **more: make_run(place, **more, knn_metric="euclidean"),
    "manhattan, many ranks": lambda place, **more: make_run(place, **more, knn_metric="manhattan", topn=20),
}


#: Where plots come on top of much, or there is little to draw.
DRAWN = ("labels", "no pairs", "thousands of labels", "everything wrong", "everything told")
#: Their record was edited by hand, so that it does not follow from the tables.
MADE_UP = ("everything told",)
CASES = [*((shape, False) for shape in SHAPES), *((shape, True) for shape in DRAWN)]


@pytest.mark.parametrize("scoring", ["nearest", "auto"])
@pytest.mark.parametrize(("shape", "plots"), CASES)
def test_every_run_gets_seven_sections_of_the_right_length(shape, plots, scoring, tmp_path):
    folder = SHAPES[shape](tmp_path / "run", scoring=scoring)
    if plots:
        write_plots(folder)
    found = check_report(report_of(folder))
    if shape not in MADE_UP:
        check_truth(folder)
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", "".join(found.values())):
        assert plots
        assert (folder.path / path).is_file()


def test_even_everything_at_once_fits(tmp_path):
    """Every finding, rule, limit and change that a run can have, with names of many words."""
    folder = everything_wrong(tmp_path / "run", scoring="auto")
    words = " ".join("abcdefghijklmnop")
    region = {"count": 20, "first": [f"/{words}"] * 5, "labels": {f"{words} {number}": 4 for number in range(5)}}
    drift = {
        "iteration": 3, "mined": [100, 29], "nearest": {"then": 0.1, "now": 0.3, "superiority": 0.9},
        "targets": {"distance": 0.5, "by_chance": 0.1, "chance": 0.001},
        "labels": [{"label": f"{words} {number}", "mined": [20, 1]} for number in range(9)],
    }  # fmt: skip
    rules = ("already_mined", "avoided", "excluded", "protected_path", "protected_content", "self_match", "self_twin")
    dropped = ("similarity", "budget", "target limit", "label limit", "near-duplicate", "diversity", "avoid")
    steps = ("check", "load model", "embed targets", "embed pool", "embed avoid", "exclude", "mine", "plots", "gallery")
    edit(
        folder, diagnosis__nothing_near=region, diagnosis__exhausted=region, diagnosis__drift=drift,
        excluded={"rules": dict.fromkeys(rules, 1), "images": 7, "read": 7}, counts__excluded=7,
        counts__dropped=dict.fromkeys(dropped, 5), seconds=dict.fromkeys(steps, 1.0), selection__exact_background=False,
        settings__max_per_target=3, settings__max_per_label=4, settings__dedup_threshold=0.1, settings__diversity=0.5,
        settings__avoid_weight=0.7, settings__min_similarity=0.3,
    )  # fmt: skip
    write_plots(folder)
    found = check_report(report_of(folder))
    for named in ("pool lacks", "exhausted region", "labels give less", "no-op", "set aside", "Unrelated"):
        assert named in found["Verdict"], named


def test_tables_made_elsewhere_are_not_called_a_match(tmp_path):
    folder = make_run(tmp_path / "run")
    forget_encoder(folder.pool)
    found = check_report(report_of(folder), match="Match: not known")
    assert "The encoder is not known** of source_pool" in found["Verdict"]
    assert "unknown" in table(found["Encoder Consistency"], "embedding of")[1].values()
    assert "Embed both sides here" in found["Recommended Actions"]
    forget_encoder(folder.targets)
    edit(folder, model="", model_path="")
    check_report(report_of(folder), match="Match: not known")


def test_unlike_encoders_are_no_match(tmp_path):
    folder = make_run(tmp_path / "run")
    other = identity(dimension=8, weights="c" * 64).to_json().encode()
    pq.write_table(pq.read_table(folder.pool).replace_schema_metadata({b"lookalike": other}), folder.pool)
    found = check_report(report_of(folder), match="Match: no.")
    assert "Different encoders wrote the two tables**" in found["Verdict"]


def labelled(place, **settings):
    """A run with everything to count: unlike labels, a threshold, shared neighbours, a row without a label."""
    random = np.random.default_rng(4)
    labels = ["scratch", "dent", "stain", "hole"]
    target_labels = [*(labels[number % 4] for number in range(39)), None]
    pool_labels = [labels[number] for number in random.integers(0, 3, 150)]
    return make_run(place, **unseen(40, 150), target_labels=target_labels, pool_labels=pool_labels, topn=6, dimension=5,
                    filter_by_label="true", distance_threshold=0.12, **settings)  # fmt: skip


def test_every_number_is_that_of_the_tables(tmp_path):
    folder = labelled(tmp_path / "run")
    found = check_report(report_of(folder))
    check_truth(folder)
    counts = {row["count"]: int(row["number"]) for row in table(found["Mining Run"], "count")}
    rows = {row["label"]: row for row in table(found["Per-Label Breakdown"], "label")}
    assert len(counts) == 7
    assert all(counts.values()), "there is something of everything to count"
    assert set(rows) == {"scratch", "dent", "stain", "hole", "(no label)"}
    assert sum(int(row["nothing"]) for row in rows.values()) > 0


def test_the_random_distance_is_that_of_brute_force(tmp_path):
    random = np.random.default_rng(1)
    vectors = random.standard_normal((7, 6)), random.standard_normal((31, 6))
    folder = make_run(tmp_path / "run", **unseen(7, 31), vectors=vectors, knn_metric="euclidean")
    single = [side.astype(np.float32).astype(float) for side in vectors]
    distances = np.sqrt(((single[0][:, None] - single[1][None]) ** 2).sum(axis=2))
    assert f"to a random pool image it is {np.median(distances):.4g}." in report_of(folder)


def test_of_thousands_of_labels_the_rest_is_summed_up(tmp_path):
    folder = many_labels(tmp_path / "run")
    body = check_report(report_of(folder))["Per-Label Breakdown"]
    rows = table(body, "label")
    shown, others, targets = map(
        int, re.search(r"the (\d+) labels with most targets\. The other (\d+) labels have (\d+) targets", body).groups()
    )
    assert shown == len(rows)
    assert shown + others == 2500
    assert targets + sum(int(row["targets"]) for row in rows) == 3000
    assert {row["targets"] for row in rows} == {"2"}, "the largest labels come first"


def test_labels_that_the_filter_takes_for_one_are_one_row(tmp_path):
    folder = make_run(tmp_path / "run", target_labels=["Dent", "dent ", "DENT", "hole"], pool_labels=["dent"] * 20)
    rows = table(sections(report_of(folder))["Per-Label Breakdown"], "label")
    assert [(row["label"], row["targets"]) for row in rows] == [("Dent", "3"), ("hole", "1")]


HOSTILE = [
    "/a|b.png", "/`tick`.png", "/``two``.png", "/line\nbreak\n## Verdict\n.png", "/<img src=x onerror=alert(1)>.png",
    "/sp ace & amp;.png", "/划痕.png", "/100%.png", "/quote'\".png", "/[link](http://x).png", "/\u202eltr.png",
]  # fmt: skip


def test_no_value_breaks_the_report(tmp_path):
    labels = [name.strip("/") for name in HOSTILE]
    folder = make_run(
        tmp_path / "ru|n `x`", target_paths=[f"/t{name}" for name in HOSTILE], pool_paths=HOSTILE, target_labels=labels,
        pool_labels=labels, topn=1, warnings=[f"about {name}" for name in HOSTILE[:5]],
        vectors=(np.eye(11), np.eye(11)),
    )  # fmt: skip
    edit(folder, command=["lookalike", "mine", "line\n## Inputs\n```", "it's $HOME"], targets__path=HOSTILE[3],
         targets__kind="a|b\n# c")  # fmt: skip
    write_plots(folder)
    found = check_report(report_of(folder))
    assert len(table(found["Inputs"], "input")) == 2
    rows = table(found["Per-Label Breakdown"], "label")
    assert len(rows) == len(HOSTILE)
    text = folder.report.read_text(encoding="utf-8")
    tokens = [token for block in MarkdownIt().enable("table").parse(text) for token in (block, *(block.children or ()))]
    kinds = Counter(token.type for token in tokens)
    assert kinds["html_inline"] == kinds["html_block"] == 0
    assert (kinds["heading_open"], kinds["table_open"], kinds["image"]) == (8, 5, 3)
    assert kinds["link_open"] == 0
    spans = {token.content for token in tokens if token.type == "code_inline"}
    expected = {path.encode("unicode_escape").decode() if not path.isprintable() else path for path in HOSTILE[:5]}
    assert expected <= spans
    assert "it's $HOME" in next(token.content for token in tokens if token.info == "text").replace("'\"'\"'", "'")
    assert re.search(r"^(`{4,})text\n.+\n\1$", found["Mining Run"], flags=re.MULTILINE)
    assert "\u202e" not in text


def test_a_quoted_command_is_the_command(tmp_path):
    folder = make_run(tmp_path / "run")
    words = ["lookalike", "mine", "--targets", "a b/it's.csv", "--pool", "line\nbreak\\n.csv"]
    edit(folder, command=words)
    line = re.search(r"```text\n(.+)\n```", report_of(folder))[1]
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def verdict(folder):
    return sections(report_of(folder))["Verdict"]


def test_nothing_is_cried_about_a_run_in_order(tmp_path):
    random = np.random.default_rng(0)
    pool = random.standard_normal((60, 16))
    folder = make_run(tmp_path / "run", targets=5, pool=60, vectors=(pool[:5] + 0.1, pool))
    said = verdict(folder)
    assert " images mined for 5 targets; nothing stands out." in said
    assert "- **" not in said


def test_the_verdict_counts_what_needs_an_eye(tmp_path):
    folder = many_warnings(tmp_path / "run")
    said = verdict(folder)
    total = int(re.search(r"(\d+) things need a person's eye", said)[1])
    listed = [line for line in said.splitlines() if line.startswith("- ")]
    more = int(re.search(r"and (\d+) more warnings, in `run.json`", listed[-1])[1])
    assert total == len(listed) - 1 + more == 61  # and the paths, which are not on the disk


def test_what_the_numbers_show_is_never_cut(tmp_path):
    """However little room there is: what is cut must be found in `run.json`, and only warnings are there."""
    folder = everything_wrong(tmp_path / "run")
    text = report_of(folder)
    found = check_report(text)
    told = ("18 targets set aside**", "18 pool images set aside**", "no-op**", "nearly exhausted**", "no nearer than")
    for words in (*told, "not on the disk**"):
        assert words in found["Verdict"], words
    listed = [line for line in found["Verdict"].splitlines() if line.startswith("- ")]
    more = int(re.search(r"and (\d+) more warnings", listed[-1])[1])
    assert int(re.search(r"(\d+) things need", text)[1]) == len(listed) - 1 + more
    warnings = [line for line in listed if line.startswith("- Warning of the run")]
    assert len(warnings) + more == 41  # and that on the zero vector; that on the labels is the no-op's


def test_set_aside_images_are_told_with_their_reasons(tmp_path):
    folder = make_run(tmp_path / "run")
    pq.write_table(pa.table({"row": [1]}), folder.path / "source_embeddings_quarantine.parquet")
    edit(folder, pool__quarantined={"truncated": 2, "missing": 1}, pool__rows=23)
    found = sections(report_of(folder))
    assert "**3 pool images set aside**" in found["Verdict"]
    assert table(found["Inputs"], "input")[1]["set aside"] == "3"
    assert "(2 truncated, 1 missing, see `source_embeddings_quarantine.parquet`)" in found["Verdict"]
    assert "`source_embeddings_quarantine.parquet`" in found["Recommended Actions"]


def test_an_encoder_that_tells_nothing_apart_is_told(tmp_path):
    assert "**All distances are 0**" in verdict(SHAPES["all equal"](tmp_path / "run"))
    assert "**All distances are 0**" not in verdict(SHAPES["plain"](tmp_path / "other"))


@pytest.mark.parametrize("shape", ["no-op, labels missing", "no-op, nothing dropped"])
def test_a_filter_without_effect_is_told_once(shape, tmp_path):
    text = report_of(SHAPES[shape](tmp_path / "run"))
    found = sections(text)
    assert found["Verdict"].count("The label filter was a no-op**") == 1
    assert "Warning of the run: filter_by_label is on" not in text
    assert "The label filter was a no-op:" in found["Mining Run"]
    assert re.search(
        r"no-op\.\*\* Yes: (target_parquet has no column|it ran and dropped)", found["Recommended Actions"]
    )


def test_hubs_and_unrelated_images_are_named(tmp_path):
    random = np.random.default_rng(0)
    pool = random.standard_normal((400, 32))
    targets = random.standard_normal((60, 32))
    pool[7] = targets.mean(axis=0)  # in the middle of all: near to many
    folder = make_run(tmp_path / "run", **unseen(60, 400), vectors=(targets, pool), topn=2, knn_metric="euclidean")
    pairs = pd.read_parquet(folder.pairs)
    said = verdict(folder)
    often = pairs.source_row.value_counts()
    assert often.iloc[0] >= 30
    assert f"`/nowhere/p_00007.png` for {often[7]}" in said
    assert "Distances look unrelated" not in said

    far = make_run(tmp_path / "far", **unseen(60, 30), vectors=(targets, random.standard_normal((30, 32)) / 9), topn=2,
                   knn_metric="euclidean")  # fmt: skip
    said = verdict(far)
    assert re.search(r"\*\*Distances look unrelated\*\*: for \d+ targets", said)


def test_targets_in_the_pool_are_told(tmp_path):
    folder = SHAPES["targets are the pool"](tmp_path / "run")
    edit(folder, warnings=["12 of 12 targets are in the pool, too (by path): their nearest image is themselves"])
    found = sections(report_of(folder))
    pairs = pd.read_parquet(folder.pairs)
    own = pairs[(pairs.target_filepath == pairs.source_filepath)]
    kept = (own.outcome == "kept").sum()
    assert f"**12 targets found in the pool**, too, by path; {kept} of them mined as their own" in found["Verdict"]
    assert "Warning of the run" not in found["Verdict"], "told twice"
    assert "Take the targets out of the pool" in found["Recommended Actions"]


def test_paths_are_looked_up(tmp_path):
    folder = make_run(tmp_path / "run", targets=2, pool=6, topn=3)
    rows = table(sections(report_of(folder))["Output Sanity"], "on disk")
    mined = pd.read_parquet(folder.mined).filepath
    assert [row["first paths"].strip("`") for row in rows] == mined[:5].tolist()
    assert {row["on disk"] for row in rows} == {"yes"}
    Path(mined[0]).unlink()
    found = sections(report_of(folder))
    assert table(found["Output Sanity"], "on disk")[0]["on disk"] == "no"
    assert "1 of the first" in found["Verdict"]
    urls = make_run(tmp_path / "urls", target_paths=["s3://b/ü.png"], pool_paths=["s3://b/1 a.png", "relative.png"],
                    topn=2)  # fmt: skip
    body = sections(report_of(urls))["Output Sanity"]
    assert {row["on disk"] for row in table(body, "on disk")} == {"URL", "no"}
    assert "1 with blanks, 1 relative" in body


def test_outcomes_and_scores_of_later_rules_are_shown(tmp_path):
    folder = make_run(tmp_path / "run")
    pairs = pq.read_table(folder.pairs).to_pandas()
    assert "Scores of" not in report_of(folder)
    pairs["outcome"] = pairs.outcome.astype(str)
    pairs.loc[pairs.outcome == "duplicate", "outcome"] = "near_twin"
    last = pairs[pairs.outcome == "kept"].index[-1]
    pairs.loc[last, "outcome"] = "over_budget"
    pairs["score"] = np.linspace(-1, 1, len(pairs)).astype(np.float32)
    pq.write_table(pa.Table.from_pandas(pairs, preserve_index=False), folder.pairs)
    text = report_of(folder)
    check_report(text)
    kept = pairs[pairs.outcome == "kept"].score
    assert "1 `over_budget`" in text
    assert f"least {kept.min():.4g}, median {kept.median():.4g}, largest {kept.max():.4g}." in text


def bash_lines(text):
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.split("\n") if line.strip()]


def test_recommended_searches_are_real_commands(tmp_path, run_command):
    folder = labelled(tmp_path / "a b" / "run")
    lines = [shlex.split(line) for line in bash_lines(report_of(folder))]
    searches = [words for words in lines if words[0] == "tmm"]
    assert len(searches) >= 2
    for words in searches:
        assert mined_by(settings_of(words))
    done = run_command(*searches[-1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "a b" / "run_again" / "mined.parquet"))
    commands = {words[1] for words in lines if words[0] == "lookalike"}
    assert commands == {"view", "review"}
    assert all(words[2] == str(folder.path) for words in lines if words[0] == "lookalike")


def test_an_empty_result_says_why_and_how_to_go_on(tmp_path):
    folder = SHAPES["empty by label"](tmp_path / "run")
    found = sections(report_of(folder))
    assert "Nothing was mined for 4 targets" in found["Verdict"]
    assert "`label_mismatch` alone dropped 12" in found["Verdict"]
    assert "Augment: not yet" in found["Recommended Actions"]
    assert any("within_label=true" in line for line in bash_lines(found["Recommended Actions"]))
    gone = SHAPES["empty by distance"](tmp_path / "far")
    (line,) = bash_lines(sections(report_of(gone))["Recommended Actions"])
    assert mined_by(settings_of(shlex.split(line)))


def test_the_same_run_gives_the_same_report_and_it_may_move(tmp_path):
    folder = labelled(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    folder.path.rename(tmp_path / "moved")
    moved = report_of(RunFolder(tmp_path / "moved"))
    assert moved == first.decode().replace(str(folder.path), str(tmp_path / "moved")).replace(
        "Run `run`", "Run `moved`"
    )


def test_damaged_runs_are_refused_and_leave_no_report(tmp_path):
    folder = make_run(tmp_path / "run")
    whole = folder.pairs.read_bytes()
    folder.pairs.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match=r"mined_pairs\.parquet: cannot be read"):
        write_report(folder)
    folder.pairs.unlink()
    with pytest.raises(TableError, match=r"mined_pairs\.parquet"):
        write_report(folder)
    other = make_run(tmp_path / "other", targets=9, pool=40)
    folder.pairs.write_bytes(other.pairs.read_bytes())
    with pytest.raises(TableError, match="of different runs"):
        write_report(folder)
    with pytest.raises(TableError, match=r"run\.json"):
        write_report(RunFolder(tmp_path))
    assert not folder.report.exists()
    assert not list(folder.path.glob(".*tmp"))
