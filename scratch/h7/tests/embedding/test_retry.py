"""`retry_quarantined=true`: only what was set aside is tried, everything else stays."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import EncoderMismatch, TableError, embed_images

OLD = 1_600_000_000 * 10**9


def write(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    os.utime(path, ns=(OLD, OLD))


@pytest.fixture
def pool(tmp_path):
    """Ten images, of which 2, 5 and 9 are bad."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(10):
        write(folder / f"{number}.png", number)
    for number in (2, 5, 9):
        (folder / f"{number}.png").write_bytes(b"rubbish")
    return folder


@pytest.fixture
def table(pool):
    return pa.table({"filepath": sorted(map(str, pool.iterdir())), "label": [f"old {row}" for row in range(10)]})


@pytest.fixture
def embed(tmp_path, clip_snapshot):
    def run(table, **settings):
        settings = {"model": "CLIP", "model_path": str(clip_snapshot), "cache_dir": "off", "shard_rows": 4, **settings}
        return embed_images(table, tmp_path / "out.parquet", **settings)

    return run


def aside(result):
    return [] if result.quarantine_path is None else pq.read_table(result.quarantine_path).column("row").to_pylist()


def test_only_what_was_set_aside_is_read_and_the_rest_is_kept(embed, table, pool):
    """The good images are gone or spoiled, and their rows stay; one bad image is mended."""
    first = embed(table)
    assert aside(first) == [2, 5, 9]
    before = pq.read_table(first.path)
    write(pool / "5.png", 5)
    (pool / "0.png").unlink()
    (pool / "1.png").write_bytes(b"spoiled, and now newer than the table")
    second = embed(table.set_column(1, "label", [[f"new {row}" for row in range(10)]]), retry_quarantined=True)
    after = pq.read_table(second.path)
    assert (second.rows, second.reused, aside(second)) == (8, 7, [2, 9])
    kept = [0, 1, 3, 4, 5, 6, 7, 8]
    assert after.column("filepath").to_pylist() == [table.column("filepath")[row].as_py() for row in kept]
    assert after.column("label").to_pylist() == [f"new {row}" for row in kept]
    rest = [row for row in range(8) if kept[row] != 5]
    assert after.take(pa.array(rest)).column("embedding").equals(before.column("embedding"))


def test_when_all_are_mended_there_is_no_quarantine_and_the_table_is_that_of_a_fresh_run(embed, table, pool, tmp_path):
    embed(table)
    for number in (2, 5, 9):
        write(pool / f"{number}.png", number)
    second = embed(table, retry_quarantined=True)
    assert (second.quarantine_path, second.rows) == (None, 10)
    assert not (tmp_path / "out_quarantine.parquet").exists()
    again = pq.read_table(second.path)
    fresh = pq.read_table(embed(table).path)
    assert again.drop_columns(["embedding"]).equals(fresh.drop_columns(["embedding"]))
    np.testing.assert_allclose(
        np.stack(again.column("embedding").to_numpy()), np.stack(fresh.column("embedding").to_numpy()), atol=1e-5
    )


def test_nothing_set_aside_is_said_and_no_file_is_touched(run_command, pool, clip_snapshot, tmp_path):
    for number in (2, 5, 9):
        write(pool / f"{number}.png", number)
    settings = (f"input_parquet={pool}", "output_parquet=out.parquet", "model=CLIP", f"model_path={clip_snapshot}")
    assert run_command("embedding", "image_embeddings", *settings, cwd=tmp_path).returncode == 0
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}
    done = run_command("embedding", "image_embeddings", *settings, "retry_quarantined=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing to try again" in done.stderr
    assert "Rows: 10" in done.lines
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()} == before


def test_the_same_command_with_reuse_can_be_tried_again(embed, table, pool, tmp_path):
    embed(table)
    shutil.copy(tmp_path / "out.parquet", tmp_path / "old.parquet")
    embed(table, reuse=tmp_path / "old.parquet")
    write(pool / "2.png", 2)
    second = embed(table, reuse=tmp_path / "old.parquet", retry_quarantined=True)
    assert (second.rows, second.reused, aside(second)) == (8, 7, [5, 9])


def test_a_run_killed_between_its_two_tables_is_mended(embed, table, pool, tmp_path):
    """The output is written first: then the quarantine table still lists images that the output holds."""
    embed(table)
    shutil.copy(tmp_path / "out_quarantine.parquet", tmp_path / "before.parquet")
    write(pool / "2.png", 2)
    done = embed(table, retry_quarantined=True)
    whole = done.path.read_bytes()
    shutil.copy(tmp_path / "before.parquet", tmp_path / "out_quarantine.parquet")
    again = embed(table, retry_quarantined=True)
    assert (again.path.read_bytes(), aside(again)) == (whole, [5, 9])


# What is refused, with every file left as it was


@pytest.fixture
def refused(tmp_path, embed):
    def check(table, error, message, **settings):
        before = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
        with pytest.raises(error, match=message):
            embed(table, retry_quarantined=True, **settings)
        assert {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")} == before

    return check


def test_without_a_finished_output(refused, table):
    refused(table, TableError, "no finished output")


def test_another_encoder(refused, embed, table, siglip_snapshot):
    embed(table)
    refused(table, EncoderMismatch, "another encoder", model="SigLIP", model_path=str(siglip_snapshot))


def test_rows_that_neither_table_holds(refused, embed, table, pool):
    embed(table)
    write(pool / "new.png", 1)
    more = pa.concat_tables([table, pa.table({"filepath": [str(pool / "new.png")], "label": ["x"]})])
    refused(more, TableError, r"1 rows of the input are neither.*new\.png")


@pytest.mark.parametrize("row", [3, 5], ids=["embedded", "set aside"])
def test_rows_that_the_input_does_not_hold(refused, embed, table, row):
    embed(table)
    less = pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
    refused(less, TableError, rf"1 rows of .* are not in the input, the first: .*{row}\.png")


def test_a_repeated_row_that_the_input_holds_once(refused, embed, table):
    embed(pa.concat_tables([table, table.slice(3, 1)]))
    refused(table, TableError, r"1 rows of .* are not in the input, the first: .*3\.png")
