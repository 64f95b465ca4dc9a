"""The command `lookalike`: demo, doctor, and what every command line needs."""

import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

from lookalike.workflow.demo_data import textile


def test_help_and_import_load_no_torch():
    """Neither `import lookalike` nor the commands' help may wait for torch."""
    code = (
        "import sys, lookalike, lookalike.cli.main, lookalike.cli.dropin, lookalike.config.schemas\n"
        "heavy = {'torch', 'transformers', 'timm', 'pyarrow', 'numpy', 'hydra', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported():
    import lookalike

    for name in lookalike.__all__:
        assert getattr(lookalike, name) is not None
    assert set(lookalike.__all__) <= set(dir(lookalike))


def test_demo_on_textile_mines_and_draws(run_command, tmp_path):
    """The whole job on real images with real weights; solar cells are what `make demo` runs."""
    given = ("--dataset", "textile", "--images", "200", "--out", "out")
    done = run_command("lookalike", "demo", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = {
        side: pq.read_table(tmp_path / "out" / f"{side}.parquet").to_pandas().label for side in ("targets", "pool")
    }
    targets = len(labels["targets"])
    assert len(labels["pool"]) == 200 - targets
    assert targets == (pd.concat(labels) != "nominal").sum() // 8
    report, gallery = (line.split(maxsplit=1)[1] for line in done.lines[-2:])
    run = (tmp_path / report).parent
    assert (tmp_path / gallery).is_file()
    pairs = pq.read_table(run / "mined_pairs.parquet").to_pandas()
    defective = pairs.source_label != "nominal"
    nearest = defective[pairs["rank"] <= 5]
    assert len(nearest) == targets * 5
    base = (labels["pool"] != "nominal").mean()
    mined = defective[pairs.outcome == "kept"].mean()
    assert f"{mined:.2f} of the mined images, {nearest.mean():.2f} of the 5 nearest of a target" in done.stdout
    assert f"By chance:   {base:.2f}" in done.stdout
    assert mined > base
    sheet = Image.open(tmp_path / "out" / "contact_sheet.png")
    blue = sum(count for count, colour in sheet.getcolors(1 << 24) if colour == (0, 0x72, 0xB2))
    assert blue == targets * (104**2 - 96**2), "a blue frame for each target"
    assert run_command("lookalike", "check", str(run), cwd=tmp_path).returncode == 0
    command = next(line for line in done.lines if line.strip().startswith("lookalike mine"))
    again = run_command(*command.split(), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.last_line != str(run)
    assert pq.read_table(tmp_path / again.last_line / "mined_pairs.parquet").to_pandas().equals(pairs)


def test_a_sample_of_the_demos_images_is_random_and_in_order():
    """The classes lie one after another in the dataset: the first images would have no defect."""
    data = textile()
    places = {path: row for row, path in enumerate(data.table.column("filepath").to_pylist())}
    drawn = [data.sample(200, seed).table for seed in (0, 0, 1)]
    rows = [[places[path] for path in table.column("filepath").to_pylist()] for table in drawn]
    assert rows[0] == rows[1] == sorted(set(rows[0])) != rows[2]
    assert len(rows[0]) == 200
    assert set(drawn[0].column("label").to_pylist()) == {"nominal", "local", "global"}
    assert data.sample(100_000, 0).table.equals(data.table)


def test_demo_refuses_what_cannot_be(run_command, tmp_path):
    for arguments, words in (
        (("--dataset", "steel"), "use one of: solar, textile"),
        (("--dataset", "textile", "--targets", "1000"), "use 1 to 999, or more images"),
        (("--dataset", "textile", "--images", "19"), "images must be at least 20"),
        (("--dataset", "textile", "--images", "300", "--targets", "200"), "of the 300 images are defective"),
        (("--dataset", "textile", "--seed", "-1"), "seed must be at least 0"),
    ):
        done = run_command("lookalike", "demo", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert run_command("lookalike", "demo", "--targets", "many", cwd=tmp_path).returncode == 2


def test_doctor_tells_what_would_be_used_on_one_screen(run_command, tmp_path):
    done = run_command("lookalike", "doctor", cwd=tmp_path, env={"COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    for words in (
        "lookalike",
        "torch",
        "device=auto uses",
        "Pillow reads",
        "memory",
        "disk here",
        "HF_HUB_OFFLINE is set",
    ):
        assert words in done.stdout
    assert len(done.lines) <= 40


def test_version(run_command, tmp_path):
    import lookalike

    assert run_command("lookalike", "--version", cwd=tmp_path).stdout == f"lookalike {lookalike.__version__}\n"
    assert lookalike.__version__ in run_command("tmm", "--version", cwd=tmp_path).stdout
