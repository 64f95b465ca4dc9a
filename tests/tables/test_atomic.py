"""A file is either whole or absent."""

import subprocess
import sys

import pytest

from lookalike.errors import TableError
from lookalike.tables.atomic import atomic_path, check_output


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_block_that_ends_well(tmp_path):
    """The temporary file becomes the path; parent folders are made; nothing else stays."""
    path = tmp_path / "new" / "deep" / "out.parquet"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename is only atomic within one file system
    assert path.read_text() == "whole"
    assert names(path.parent) == ["out.parquet"]


def test_earlier_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "out.parquet"
    path.write_text("earlier")
    with atomic_path(path) as temporary:
        temporary.write_text("later")
        assert path.read_text() == "earlier"
    assert path.read_text() == "later"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("began", [True, False])
def test_block_that_raises(tmp_path, error, began):
    """The earlier file stays as it was, and the temporary one goes."""
    path = tmp_path / "out.parquet"
    path.write_text("earlier")

    def write():
        with atomic_path(path) as temporary:
            if began:
                temporary.write_text("half")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        write()
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["out.parquet"]


def test_process_that_dies(tmp_path):
    """Whatever a dead process leaves, the path is as it was, and the next run is not disturbed by it."""
    path = tmp_path / "out.parquet"
    path.write_text("earlier")
    program = (
        "import os, sys, pathlib; from lookalike.tables.atomic import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 9
    assert path.read_text() == "earlier"
    with atomic_path(path) as temporary:
        temporary.write_text("later")
    assert path.read_text() == "later"


def test_temporary_file_is_no_table(tmp_path):
    """What a dead process leaves is hidden and does not end in `.parquet`: no folder of tables reads it."""
    with atomic_path(tmp_path / "out.parquet") as temporary:
        temporary.touch()
        assert temporary.name.startswith(".")
        assert temporary.suffix != ".parquet"


def test_folder_that_cannot_be_made(tmp_path):
    """An error of the system becomes one for the user, naming the path."""
    (tmp_path / "file").touch()
    with pytest.raises(TableError, match=r"file/out\.parquet"), atomic_path(tmp_path / "file" / "out.parquet"):
        raise AssertionError("the block must not start")


def test_path_that_is_a_folder(tmp_path):
    """A folder is never replaced by a file."""

    def write():
        with atomic_path(tmp_path / "out") as temporary:
            temporary.write_text("whole")

    (tmp_path / "out").mkdir()
    with pytest.raises(TableError, match="out"):
        write()
    assert (tmp_path / "out").is_dir()
    assert names(tmp_path) == ["out"]


# check_output


def test_output_that_can_be_written(tmp_path):
    """A new file, or an earlier one that is no input: nothing is said and nothing is written."""
    (tmp_path / "in.parquet").write_text("in")
    (tmp_path / "earlier.parquet").write_text("earlier")
    for name in ("new.parquet", "earlier.parquet"):
        check_output(tmp_path / name, inputs=(str(tmp_path / "in.parquet"), "none.parquet"))
    assert names(tmp_path) == ["earlier.parquet", "in.parquet"]
    assert (tmp_path / "earlier.parquet").read_text() == "earlier"


def test_output_that_is_a_folder(tmp_path):
    with pytest.raises(TableError, match="is a folder"):
        check_output(tmp_path)


@pytest.mark.parametrize("spelling", ["in.parquet", "./in.parquet", "sub/../in.parquet", "link.parquet"])
def test_output_that_is_an_input(tmp_path, monkeypatch, spelling):
    """However it is spelled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "in.parquet").write_text("in")
    (tmp_path / "link.parquet").symlink_to("in.parquet")
    with pytest.raises(TableError, match="overwritten") as error:
        check_output(tmp_path / "in.parquet", inputs=("other.parquet", spelling))
    assert "in.parquet" in str(error.value)


@pytest.mark.parametrize("output", ["1.parquet", "new.parquet", "sub/new.parquet"])
def test_output_inside_a_folder_of_inputs(tmp_path, output):
    """An existing part would be lost, and a new file would be read as a part the next time."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "1.parquet").write_text("part")
    with pytest.raises(TableError, match="lies in the input folder"):
        check_output(tmp_path / "pool" / output, inputs=(str(tmp_path / "pool"),))


def test_output_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TableError, match="file"):
        check_output(tmp_path / "file" / "sub" / "out.parquet")


def test_output_in_a_folder_that_is_not_writable(locked):
    with locked() as folder, pytest.raises(TableError, match="not writable"):
        check_output(folder / "out.parquet")
