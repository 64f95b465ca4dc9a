"""`lookalike mine` with texts as targets: exactly their nearest images, and a folder that tells the truth about it."""

import json
import re
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.config.compose import read_spec
from lookalike.config.schemas import ImageEmbeddingsConfig, NearestNeighborsConfig, RunConfig
from lookalike.tables.run_folder import read_record
from lookalike.workflow.check import check_run
from lookalike.workflow.run_plan import plan_run

TEXTS = ["lifted lead, side light", "a dark crack <b>/etc/passwd"]


@pytest.fixture(scope="module")
def mined(tmp_path_factory, clip_snapshot, images, run_command):
    """One run of the command, its folder, and its working directory."""
    place = tmp_path_factory.mktemp("texts")
    words = [word for text in TEXTS for word in ("--text", text)]
    done = run_command(
        "lookalike", "mine", *words, "--pool", images, "--model", "CLIP", "--model-path", clip_snapshot, "--topn", "3",
        "--run-dir", "run", "cache_dir=off", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place, done


def nearest(folder, count):
    """Rows of the pool that are nearest to each text by cosine, in float64."""
    sides = []
    for name in ("target_embeddings.parquet", "source_embeddings.parquet"):
        vectors = np.stack(pq.read_table(folder / name).column("embedding").to_numpy()).astype(np.float64)
        sides.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return np.argsort(1 - sides[0] @ sides[1].T, axis=1, kind="stable")[:, :count]


def test_each_text_takes_its_nearest_images(mined):
    place, done = mined
    assert re.search(r"Targets:\s+2 texts: 2 embedded now", done.stdout), done.stdout
    run = place / "run"
    assert pq.read_schema(run / "target_embeddings.parquet").names == ["text", "embedding"]
    pairs = pq.read_table(run / "mined_pairs.parquet").to_pandas()
    assert pairs.source_row.tolist() == nearest(run, 3).ravel().tolist()
    assert pairs.target_filepath.tolist() == [text for text in TEXTS for _ in range(3)]
    assert check_run(run) == []


def test_summary_report_and_record_say_that_the_targets_are_texts(mined):
    run = mined[0] / "run"
    record = read_record(lookalike_folder(run))
    note = "the targets are texts, and distances of texts to images lie in another range"
    assert any(note in warning and "scoring=nearest" in warning for warning in record.warnings)
    assert note in (run / "mining_summary.txt").read_text()
    report = (run / "Mining_Report.md").read_text()
    assert note in report
    assert "The targets are texts." in report
    assert "**Match: yes.** The texts were embedded with the text side" in report
    assert "unrelated" not in report.split("## Inputs")[0].lower()
    assert record.targets.texts
    assert not record.pool.texts
    assert record.targets.identity["images"] == record.pool.identity["model"]
    assert record.settings["scoring"] == "nearest"


def lookalike_folder(run):
    from lookalike.tables.run_folder import RunFolder

    return RunFolder(run)


def test_the_gallery_has_the_text_in_place_of_a_picture(mined):
    page = (mined[0] / "run" / "gallery.html").read_text()
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL).group(1))
    shown = [data["images"][image] for _, image, *_ in data["targets"]]
    assert [one[0] for one in shown] == TEXTS
    assert all(one[1:] == ["", "", "", None] for one in shown)
    pictures = [image for image in data["images"] if image[4] is not None]
    assert all(image[3] for image in pictures), "the pool images have their pictures"
    assert "<b>/etc" not in page


def test_the_spec_files_do_it_again(mined, run_command):
    """What stands above the embedding spec and the mining spec give the same tables."""
    place, _ = mined
    run = place / "run"
    pool_spec = read_spec(ImageEmbeddingsConfig, run / "embedding_spec.yaml")
    assert pool_spec.output_parquet == str(run / "source_embeddings.parquet")
    line = next(
        line for line in (run / "embedding_spec.yaml").read_text().splitlines() if line.startswith("# targets: ")
    )
    words = shlex.split(line.removeprefix("# targets: "))
    words = [word if not word.startswith("output_parquet=") else "output_parquet=again.parquet" for word in words]
    assert words[:2] == ["embedding", "text_embeddings"]
    assert run_command(*words, cwd=place).returncode == 0
    assert pq.read_table(place / "again.parquet").equals(pq.read_table(run / "target_embeddings.parquet"))
    settings = read_spec(NearestNeighborsConfig, run / "mining_spec.yaml")
    again = lookalike.mine(
        settings.source_parquet, settings.target_parquet, place / "mined again.parquet", topn=settings.topn,
        knn_metric=settings.knn_metric, scoring=settings.scoring,
    )  # fmt: skip
    assert pq.read_table(again.path).equals(pq.read_table(run / "mined.parquet"))


def test_view_serves_no_text_as_a_file(mined):
    from lookalike.reports.gallery_data import image_id
    from lookalike.workflow.viewer import open_site

    site = open_site(mined[0] / "run")
    assert not {image_id(text) for text in TEXTS} & set(site.images)


@pytest.fixture
def settings(clip_snapshot):
    return {"model": "CLIP", "model_path": str(clip_snapshot), "cache_dir": "off"}


def test_a_table_of_texts_with_labels(images, settings, tmp_path):
    """A CSV with a column `text`; labels count as those of images."""
    paths = sorted(map(str, images.iterdir()))
    pool = pa.table({"filepath": paths, "label": ["a", "b"] * 6})
    (tmp_path / "wanted.csv").write_text('text,label\n"lifted lead, side light",a\ncrack,b\n')
    result = lookalike.run(
        str(tmp_path / "wanted.csv"), pool, run_dir=str(tmp_path / "run"), topn=2, within_label=True, **settings
    )
    pairs = pq.read_table(result.folder.pairs).to_pandas()
    assert (pairs.target_label == pairs.source_label).all()
    assert len(pairs) == 4
    assert check_run(result.folder.path) == []


def test_ready_tables_of_both_sides(images, settings, tmp_path):
    """Texts and images that were embedded before; also for a pool that is ready alone."""
    model, path = settings["model"], settings["model_path"]
    texts = lookalike.embed_texts(pa.table({"text": TEXTS}), tmp_path / "texts.parquet", model, path)
    pool = lookalike.embed_images(str(images), tmp_path / "pool.parquet", model, path)
    both = lookalike.run(str(texts.path), str(pool.path), run_dir=str(tmp_path / "both"), topn=2, **settings)
    assert any("the targets are texts" in warning for warning in both.warnings)
    assert check_run(both.folder.path) == []
    one = lookalike.run(pa.table({"text": TEXTS}), str(pool.path), run_dir=str(tmp_path / "one"), topn=2, **settings)
    assert pq.read_table(one.folder.pairs).equals(pq.read_table(both.folder.pairs))
    assert check_run(one.folder.path) == []
    head = (one.folder.embedding_spec).read_text().splitlines()[1]
    assert head.startswith("# targets: embedding text_embeddings -e")
    with pytest.raises(lookalike.TableError, match="only targets may be texts"):
        lookalike.run(str(images), str(texts.path), run_dir=str(tmp_path / "no"), **settings)


def test_another_scoring_is_possible_with_a_warning(images, settings, tmp_path):
    result = lookalike.run(
        pa.table({"text": TEXTS}), str(images), run_dir=str(tmp_path / "run"), scoring="lda", components="4",
        budget=3, **settings,
    )  # fmt: skip
    assert result.counts.unique == 3
    assert any("scoring=lda supposes that the targets are images" in warning for warning in result.warnings)
    assert check_run(result.folder.path) == []


def test_what_cannot_be_is_refused_before_a_folder_is_made(images, settings, siglip_snapshot, tmp_path):
    texts = pa.table({"text": TEXTS, "weight": [1.0, 2.0]})
    pool = lookalike.embed_images(str(images), tmp_path / "pool.parquet", "SigLIP", str(siglip_snapshot))
    for changes, error, words in (
        ({"model": "timm", "model_path": "resnet18"}, lookalike.ConfigError, "no text side"),
        ({"target_weight_column": "weight"}, lookalike.ConfigError, "counts in a scoring"),
        ({"pool": str(pool.path)}, lookalike.EncoderMismatch, "differ in .*weights"),
        ({"model_path": str(tmp_path / "none")}, lookalike.ConfigError, "the model folder does not exist"),
    ):
        given = {"pool": str(images), **settings, **changes}
        with pytest.raises(error, match=words):
            lookalike.run(texts, given.pop("pool"), run_dir=str(tmp_path / "run"), **given)
        assert not (tmp_path / "run").exists()


def test_dry_run_and_command_line(images, settings, run_command, tmp_path):
    words = ("lookalike", "mine", "--pool", images, "--model", "CLIP", "--model-path", settings["model_path"])
    dry = run_command(*words, "--text", "a crack", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "texts, to embed" in dry.stdout
    assert not list(tmp_path.iterdir())
    both = run_command(*words, "--text", "a crack", "--targets", "weak", cwd=tmp_path)
    assert both.returncode == 2
    assert "--text stands in place of --targets" in both.stderr


def test_a_stopped_run_goes_on(images, settings, tmp_path, monkeypatch):
    """The texts of the command line are kept in the folder; from another directory, too, for they are no paths."""
    from lookalike.workflow import run_steps as module

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "mine_with", stop)
        with pytest.raises(KeyboardInterrupt):
            lookalike.run(pa.table({"text": TEXTS}), str(images), run_dir=str(tmp_path / "run"), topn=2, **settings)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "targets.parquet").unlink()  # embedded already, and no longer needed
    result = lookalike.resume_run(tmp_path / "run")
    assert result.record.targets.texts
    pairs = pq.read_table(result.folder.pairs).to_pandas()
    assert pairs.source_row.tolist() == nearest(result.folder.path, 2).ravel().tolist()


def test_a_plan_of_ready_pool_and_texts(images, settings, tmp_path):
    pool = lookalike.embed_images(str(images), tmp_path / "pool.parquet", settings["model"], settings["model_path"])
    config = RunConfig("-", str(pool.path), run_dir=str(tmp_path / "run"), **settings)
    plan = plan_run(config, pa.table({"text": TEXTS}))
    assert "for texts" in plan.encoder
