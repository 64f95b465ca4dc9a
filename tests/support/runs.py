"""Finished run folders made from small pictures and made-up vectors, without an encoder: quick, and of any shape."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from lookalike.config.schemas import NearestNeighborsConfig
from lookalike.tables.run_folder import InputRecord, RunFolder, RunRecord, file_record
from lookalike.workflow.diagnosis import diagnose
from lookalike.workflow.mining import mine
from lookalike.workflow.run_files import selection_record
from support.embeddings import identity, write_embeddings


def make_images(folder, count, stem, size=(64, 48)):
    """Write small textures and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.NEAREST
        )
        paths.append(folder / f"{stem}_{number:03d}.png")
        picture.save(paths[-1])
    return [str(path) for path in paths]


def make_run(folder, *, targets=4, pool=20, target_labels=None, pool_labels=None, target_paths=None, pool_paths=None,
             topn=3, dimension=8, warnings=(), vectors=None, barred=None, last=None, **settings):  # fmt: skip
    """Make a run folder and return it; labels are lists or None; paths default to pictures beside the folder.

    `settings` go to `mine` (`scoring`, `distance_threshold`, ...); `vectors` are (targets, pool) or random; `barred`
    has the rule of every pool row that may not be mined; `last` is the run of the iteration before.
    """
    run = RunFolder(Path(folder))
    run.path.mkdir(parents=True)
    target_paths = target_paths or make_images(run.path.parent / "images", targets, "target")
    pool_paths = pool_paths or make_images(run.path.parent / "images", pool, "pool")
    random = np.random.default_rng(0)
    if vectors is None:
        vectors = [random.standard_normal((len(paths), dimension)) for paths in (target_paths, pool_paths)]
    who = identity(dimension=vectors[0].shape[1])
    write_embeddings(run.targets, vectors[0], filepaths=target_paths, labels=target_labels, who=who)
    write_embeddings(run.pool, vectors[1], filepaths=pool_paths, labels=pool_labels, who=who)
    settings = {"topn": topn, "knn_metric": "cosine", **settings}
    if barred:
        left = [pool_paths[row] for row in barred]
        rules = list(barred.values())
        table = {"source_row": list(barred), "filepath": left, "rule": rules, "barred_by": target_paths[:1] * len(left),
                 "distance": pa.nulls(len(left), pa.float32())}  # fmt: skip
        pq.write_table(pa.table(table), run.excluded)
        settings["exclude_path"] = str(run.excluded)
    result = mine(run.pool, run.targets, run.mined, **settings)
    diagnosis = diagnose(run, NearestNeighborsConfig(run.pool, run.targets, run.mined, **settings), result, last)
    specs = (
        (run.embedding_spec, {"model": "CLIP", "model_path": "acme/tiny-clip", "batch_size": 64}),
        (
            run.mining_spec,
            {
                "source_parquet": str(run.pool),
                "target_parquet": str(run.targets),
                "output_parquet": str(run.mined),
                **settings,
            },
        ),
    )
    for path, content in specs:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    run.log.write_text("", encoding="utf-8")
    sides = [
        InputRecord(
            path=f"{name}.parquet",
            kind="parquet",
            rows=len(paths),
            has_label=labels is not None,
            converted=False,
            embedded=len(paths),
            seconds=1.5,
            identity={"fingerprint": who.fingerprint, **asdict(who)},
        )
        for name, paths, labels in (("targets", target_paths, target_labels), ("pool", pool_paths, pool_labels))
    ]
    written = [run.targets, run.pool, run.mined, run.pairs, run.summary, run.target_outcomes, run.embedding_spec,
               run.mining_spec]  # fmt: skip
    RunRecord(
        lookalike="0.1.0", created="2026-11-23T12:00:00+00:00", command=["lookalike", "mine"], settings=settings,
        model="CLIP", model_path="acme/tiny-clip", targets=sides[0], pool=sides[1], counts=asdict(result.counts),
        certificate={"text": str(result.certificate)}, warnings=[*result.warnings, *warnings],
        seconds={"embed targets": 1.5, "embed pool": 1.5, "mine": 0.1}, versions={"python": "3.11"},
        machine={"processor": "a processor", "cores": 2, "devices": []},
        files={path.name: file_record(path) for path in written},
        excluded={"rules": dict(Counter(barred.values())), "images": len(barred), "read": 0} if barred else None,
        selection=None if result.scored is None else selection_record(result.scored), diagnosis=diagnosis,
    ).write(run)  # fmt: skip
    return run
