"""What the selection finds on real images: precision, targets served, redundancy, and what `auto` blends.

Images of a class are drawn as targets, everything else is the pool, and what is kept is counted. The classes are only
used for counting. Every option keeps as many images as plain top-5 gives; where the class is thinned, as many as there
are members left, so that precision is also recall.

`auto` is the real thing; the single options, which only compare, are scored by plain products in float32.

Both datasets and the encoder are those of `lookalike demo`. Every worker has one core. With ``--folder`` what was
measured stays there, draw by draw, and a run that was stopped goes on, as long as this code is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import save

#: The class's share of the pool where it is thinned.
THIN = 0.02
#: Fewer members of the class than this in the pool are too few to count.
_LEAST = 8
_TOPN = 5
_SETS = ("solar", "mono", "local", "global", "any")
TITLES = {
    "solar": "solar cells, defective",
    "mono": "mono cells only, defective",
    "local": "textile, local defects",
    "global": "textile, global defects",
    "any": "textile, any defect",
}


class Case(NamedTuple):
    """What is drawn: a set, how many targets, the class thinned or not, and the seed."""

    name: str
    targets: int
    thinned: bool
    draw: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks selection`."""
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--targets", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--sets", nargs="+", default=list(_SETS), choices=_SETS)
    parser.add_argument(
        "--folder", type=Path, help="for embeddings and finished draws, which stay there; a temporary one if not given"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed, draw, select, count, print and save."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        arrays = _embedded(folder)
        np.savez(Path(temporary) / "sets.npz", **arrays)
        embedding = time.perf_counter() - started
        cases = [
            Case(name, targets, thinned, draw)
            for draw in range(arguments.draws)
            for name in arguments.sets
            for thinned in (False, True)
            for targets in arguments.targets
        ]
        finished = _Finished(folder)
        context = multiprocessing.get_context("spawn")
        queue, cores = context.Queue(), sorted(os.sched_getaffinity(0))
        for core in cores:
            queue.put(core)
        with context.Pool(len(cores), _pin, (queue, str(Path(temporary) / "sets.npz"))) as workers:
            for case, one in workers.imap(_named, finished.missing(cases)):
                finished.add(case, one)
        results = [one for case in cases if (one := finished.results[_key(case)])]
    groups = _grouped(sorted(results, key=lambda one: _place(one, arguments)))
    result = {
        "draws": arguments.draws,
        "thinned_share": THIN,
        "seconds": {"embedding": embedding, "all": time.perf_counter() - started},
        "groups": groups,
    }
    print(tables(result))
    save("selection", result)


def _embedded(folder: Path) -> dict[str, Any]:
    """Vectors and class membership of every set; embedded once in a folder."""
    import pyarrow.parquet as pq

    from lookalike.embedding.images import embed_images
    from lookalike.tables.embedding_stream import read_embedding_table
    from lookalike.tables.pair_table import write_table
    from lookalike.workflow.demo_data import DATASETS, GOOD, write_encoder

    arrays = {}
    for name, dataset in DATASETS.items():
        images, output = folder / f"{name}.parquet", folder / f"{name}_embeddings.parquet"
        if not output.exists():
            write_table(dataset().table, images)
            encoder = write_encoder(folder / "encoder")
            embed_images(images, output, "timm", str(encoder), cache_dir="off")
        vectors = read_embedding_table(str(output), "embedding").vectors
        table = pq.read_table(images)
        labels = np.array(table.column("label").to_pylist())
        if name == "solar":
            mono = np.array(table.column("cell_type").to_pylist()) == "mono"
            parts = {"solar": (vectors, labels != GOOD), "mono": (vectors[mono], labels[mono] != GOOD)}
        else:
            parts = {kind: (vectors, labels == kind) for kind in ("local", "global")}
            parts = {
                kind: (vectors[member | (labels == GOOD)], member[member | (labels == GOOD)])
                for kind, (_, member) in parts.items()
            }
            parts["any"] = (vectors, labels != GOOD)
        for part, (matrix, member) in parts.items():
            arrays[f"{part}_vectors"], arrays[f"{part}_member"] = matrix, member
    return arrays


class _Finished:
    """Draws that were measured, by this code."""

    def __init__(self, folder: Path) -> None:
        import lookalike.selection

        code = [Path(__file__), *sorted(Path(lookalike.selection.__path__[0]).glob("*.py"))]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in code)).hexdigest()
        self._file = folder / f"draws-{digest[:12]}.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.results: dict[str, dict[str, Any] | None] = dict(json.loads(line) for line in lines)

    def missing(self, cases: list[Case]) -> list[Case]:
        """Those that were not."""
        return [case for case in cases if _key(case) not in self.results]

    def add(self, case: Case, result: dict[str, Any] | None) -> None:
        """Keep one."""
        self.results[_key(case)] = result
        with self._file.open("a") as file:
            file.write(json.dumps([_key(case), result]) + "\n")


def _key(case: Case) -> str:
    return " ".join(map(str, case))


def _place(one: dict[str, Any], arguments: argparse.Namespace) -> tuple[int, bool, int, int]:
    """Where a draw stands: by set, share, number of targets, draw."""
    case = one["case"]
    return (
        arguments.sets.index(case["name"]), case["thinned"], arguments.targets.index(case["targets"]), case["draw"],
    )  # fmt: skip


_ARRAYS: dict[str, Any] = {}


def _pin(queue: Any, path: str) -> None:
    """Give a worker one core, and the arrays."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {queue.get()})
    _ARRAYS.update(np.load(path))


def _draw(case: Case) -> tuple[Any, Any, Any] | None:
    """Targets, pool, and which pool images belong to the class; None where too few are left."""
    vectors, member = _ARRAYS[f"{case.name}_vectors"], _ARRAYS[f"{case.name}_member"]
    random = np.random.default_rng(case.draw)
    drawn = random.permutation(np.flatnonzero(member))
    targets, left = drawn[: case.targets], drawn[case.targets :]
    others = np.flatnonzero(~member)
    if case.thinned:
        left = left[: round(THIN * len(others) / (1 - THIN))]
    if len(left) < _LEAST:
        return None
    pool = np.sort(np.concatenate([left, others]))
    return vectors[np.sort(targets)], vectors[pool], member[pool]


def _named(case: Case) -> tuple[Case, dict[str, Any] | None]:
    """The same with its case."""
    return case, _measure(case)


def _measure(case: Case) -> dict[str, Any] | None:
    """All options, and `auto`, on one draw."""
    from lookalike.config.schemas import ScoringConfig
    from lookalike.neighbors.search import nearest_neighbors
    from lookalike.neighbors.sides import ArraySide
    from lookalike.selection.coverage import Limits, cover
    from lookalike.selection.passes import score_pool
    from lookalike.selection.scored import pairs_of, score_by_rank, select_scored

    drawn = _draw(case)
    if drawn is None:
        return None
    targets, pool, member = drawn
    config = ScoringConfig(topn=_TOPN, seed=case.draw)
    lists = nearest_neighbors(targets, pool, 64, config.knn_metric)
    budget = int(member.sum()) if case.thinned else len(np.unique(lists.rows[:, :_TOPN]))
    started = time.perf_counter()
    auto = select_scored(targets, pool, replace(config, budget=budget))
    seconds = time.perf_counter() - started

    labels = np.zeros(len(targets), np.int64)
    near = lists._replace(rows=lists.rows[:, : config.candidates], distances=lists.distances[:, : config.candidates])
    images = score_pool(ArraySide(pool, "pool"), None, targets, config.knn_metric, ["cpu"], None)
    score_by_rank(images.scores, lists)
    scores = {"nearest": images.scores.copy(), **_single(targets, pool)}
    plain = auto.choice.option.scoring == "nearest"
    scores["auto"] = scores["nearest"] if plain else auto.pool_scores
    found: dict[str, Any] = {}
    for way, own in scores.items():
        images.scores[:] = own
        wide = way == "nearest" or (way == "auto" and plain)
        for floor in (0, 1):
            covered = cover(pairs_of(lists if wide else near), images, labels, Limits(budget, floor))
            kept = covered.pairs.rows[covered.outcomes == 0]
            assert len(kept) == budget
            found[f"{way}{' + floor' if floor else ''}"] = _counted(kept, covered.own, pool, member)
            if floor and way == "auto":
                assert set(kept.tolist()) == set(auto.kept_rows.tolist()), "this is not what auto keeps"
    return {
        "case": case._asdict(),
        "pool": len(pool),
        "share": float(member.mean()),
        "yield": budget,
        "seconds": seconds,
        "shares": {str(one.option): one.share for one in auto.choice.tried},
        "found": found,
    }


def _single(targets: Any, pool: Any) -> dict[str, Any]:
    """The scores of every single option."""
    from lookalike.selection.arithmetic import project
    from lookalike.selection.scored import LADDER, Option
    from lookalike.selection.scoring import NEAR, lda_axis
    from lookalike.selection.space import Moments, Whitening, directions

    moments = Moments(pool.shape[1])
    moments.see(pool)
    whitening = Whitening.of(moments, max(LADDER))
    projected = [project(whitening, side) for side in (pool, targets)]
    density, lda = {}, {}
    for number in LADDER:
        images, goals = (directions(side, number) for side in projected)
        cosines = images @ images.T
        np.fill_diagonal(cosines, -1)
        unlike = -np.partition(-cosines, NEAR, axis=1)[:, :NEAR].mean(axis=1)
        like = -np.sort(-(images @ goals.T), axis=1)[:, :NEAR].mean(axis=1)
        density[str(Option("density_ratio", number))] = like - unlike
        lda[str(Option("lda", number))] = images @ lda_axis(goals, np.ones(len(goals)))
    return density | lda


def _counted(kept: Any, own: Any, pool: Any, member: Any) -> dict[str, float]:
    """Precision, targets served, and how alike the kept images are."""
    units = pool[kept] / np.maximum(np.linalg.norm(pool[kept], axis=1, keepdims=True), 1e-12)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    return {
        "precision": float(member[kept].mean()),
        "served": float((own > 0).mean()),
        "redundancy": float(cosines.max(axis=1).mean()),
    }


def _grouped(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and spreads over the draws of each set, number of targets and share."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in results:
        case = one["case"]
        groups.setdefault((case["name"], case["thinned"], case["targets"]), []).append(one)
    return [
        {"set": name, "thinned": thinned, "targets": targets, **_group(draws)}
        for (name, thinned, targets), draws in groups.items()
    ]


def _group(draws: list[dict[str, Any]]) -> dict[str, Any]:
    ways = {way: _spread([one["found"][way] for one in draws]) for way in draws[0]["found"]}
    free = [way for way in draws[0]["found"] if "floor" not in way and way != "auto"]
    fixed = max(free, key=lambda way: ways[way]["precision"]["mean"])
    best = [max(one["found"][way]["precision"] for way in free) for one in draws]
    blended = ways["auto"]["precision"]["mean"]
    options = {option for one in draws for option in one["shares"]}
    shares = {option: float(np.mean([one["shares"].get(option, 0.0) for one in draws])) for option in options}
    return {
        "draws": len(draws),
        "pool": float(np.mean([one["pool"] for one in draws])),
        "share": float(np.mean([one["share"] for one in draws])),
        "yield": float(np.mean([one["yield"] for one in draws])),
        "seconds": {"mean": float(np.mean([s["seconds"] for s in draws])), "max": max(s["seconds"] for s in draws)},
        "shares": dict(sorted(shares.items(), key=lambda one: (-one[1], one[0]))),
        "best": {"option": fixed, "precision": ways[fixed]["precision"]["mean"]},
        "regret": {
            "of_each_draw": float(np.mean(best)) - blended,
            "of_the_best_option": ways[fixed]["precision"]["mean"] - blended,
        },
        "ways": ways,
    }


def _spread(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of every figure."""
    return {
        key: {
            "mean": float(np.mean([one[key] for one in found])),
            "deviation": float(np.std([one[key] for one in found])),
        }
        for key in found[0]
    }


def tables(result: dict[str, Any]) -> str:
    """The tables of `docs/selection.md`, as Markdown."""
    shares = [_table_of_shares(result, thinned) for thinned in (False, True)]
    return "\n\n".join([*shares, _table_of_regrets(result), _table_of_choices(result), _table_of_options(result)])


def _table_of_shares(result: dict[str, Any], thinned: bool) -> str:
    """Precision, targets served and redundancy of plain top-5 and of auto."""
    lines = [
        "| set | targets | share | kept | plain | auto | auto + floor | best option | served: plain / auto / + floor |"
        " redundancy: plain / auto + floor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group in result["groups"]:
        if group["thinned"] == thinned:
            ways = group["ways"]
            three = [ways[way] for way in ("nearest", "auto", "auto + floor")]
            precision = " | ".join(
                f"{way['precision']['mean']:.2f} ± {way['precision']['deviation']:.2f}" for way in three
            )
            served = " / ".join(f"{way['served']['mean']:.2f}" for way in three)
            redundancy = " / ".join(f"{way['redundancy']['mean']:.2f}" for way in (three[0], three[2]))
            best = f"{group['best']['precision']:.2f} ({group['best']['option']})"
            lines.append(
                f"| {TITLES[group['set']]} | {group['targets']} | {group['share']:.3f} | {group['yield']:.0f} | "
                f"{precision} | {best} | {served} | {redundancy} |"
            )
    return "\n".join(lines)


def _table_of_choices(result: dict[str, Any]) -> str:
    """What auto blends, what it cost against hindsight, and the seconds."""
    lines = [
        "| set | targets | thinned | largest shares (mean over the draws) | regret: best of the set / of each draw |"
        " seconds |",
        "|---|---|---|---|---|---|",
    ]
    for group in result["groups"]:
        largest = list(group["shares"].items())[:4]
        text = ", ".join(f"{_short(option)}: {share:.0%}" for option, share in largest)
        regret = group["regret"]
        lines.append(
            f"| {TITLES[group['set']]} | {group['targets']} | {'yes' if group['thinned'] else 'no'} | {text} | "
            f"{regret['of_the_best_option']:.3f} / {regret['of_each_draw']:.3f} | {group['seconds']['mean']:.1f} |"
        )
    return "\n".join(lines)


def _table_of_regrets(result: dict[str, Any]) -> str:
    """Regret by the number of targets, over the sets, and the least that auto gains over plain."""
    lines = [
        "| targets | thinned | regret: mean of the sets | largest | auto over plain: least | auto + floor: least |",
        "|---|---|---|---|---|---|",
    ]
    for targets, thinned in sorted({(group["targets"], group["thinned"]) for group in result["groups"]}):
        own = [one for one in result["groups"] if (one["targets"], one["thinned"]) == (targets, thinned)]
        regrets = {TITLES[one["set"]]: one["regret"]["of_the_best_option"] for one in own}
        worst = max(regrets, key=lambda title: regrets[title])
        plain = [one["ways"]["nearest"]["precision"]["mean"] for one in own]
        gains = [
            min(one["ways"][way]["precision"]["mean"] - base for one, base in zip(own, plain, strict=True))
            for way in ("auto", "auto + floor")
        ]
        lines.append(
            f"| {targets} | {'yes' if thinned else 'no'} | {np.mean(list(regrets.values())):.3f} | "
            f"{regrets[worst]:.3f} ({worst}) | {gains[0]:+.3f} | {gains[1]:+.3f} |"
        )
    return "\n".join(lines)


def _short(option: str) -> str:
    """A name for a table."""
    return option.replace("density_ratio, ", "dr ").replace("lda, ", "lda ").replace(" components", "")


def _table_of_options(result: dict[str, Any]) -> str:
    """Precision of every option without a floor."""
    options = [way for way in result["groups"][0]["ways"] if "floor" not in way and way != "auto"]
    short = [_short(way) for way in options]
    lines = [f"| set | targets | thinned | {' | '.join(short)} |", "|---" * (3 + len(options)) + "|"]
    for group in result["groups"]:
        figures = [group["ways"][way]["precision"] for way in options]
        cells = " | ".join(f"{one['mean']:.2f} ± {one['deviation']:.2f}" for one in figures)
        thinned = "yes" if group["thinned"] else "no"
        lines.append(f"| {TITLES[group['set']]} | {group['targets']} | {thinned} | {cells} |")
    return "\n".join(lines)
