"""`lookalike cache`: info, prune, clear."""

import pytest

from lookalike.embedding.cache import VectorCache
from lookalike.embedding.cache_database import SUFFIX
from support.caches import found_numbers, identity, numbered


@pytest.fixture
def folder(tmp_path):
    """A cache of two encoders."""
    for encoder, count in ((identity("large", 768), 300), (identity("small", precision="bf16"), 5)):
        with VectorCache(tmp_path / "cache", encoder) as cache:
            cache.store(numbered(range(count), encoder.model.dimension))
    return tmp_path / "cache"


def run_cache(run_command, *arguments, folder, code=0):
    done = run_command("lookalike", "cache", *arguments, cwd=folder.parent, env={"LOOKALIKE_CACHE": str(folder)})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_info_shows_each_encoder_and_the_sum(run_command, folder):
    (folder / f"{'0' * 32}{SUFFIX}").write_text("rubbish")
    first, large, small, rubbish, last = run_cache(run_command, "info", folder=folder).lines
    assert first == f"Folder:  {folder}"
    assert "300 vectors, last used 20" in large
    assert "timm large, 768 dimensions, fp32, torch, pillow" in large
    assert "5 vectors" in small
    assert "timm small, 8 dimensions, bf16, torch, pillow" in small
    assert rubbish.startswith("0" * 12)
    assert "cannot be read" in rubbish
    assert last.startswith("Total:   305 vectors, ")
    assert last.endswith(" MiB")


def test_dir_wins_over_the_default_folder(run_command, folder, tmp_path):
    done = run_cache(run_command, "info", "--dir", "elsewhere", folder=folder)
    assert done.lines == ["Folder:  elsewhere", "Total:   0 vectors, 0 B"]
    assert not (tmp_path / "elsewhere").exists()
    run_cache(run_command, "clear", "--dir", "elsewhere", folder=folder)
    assert found_numbers(folder, range(300), encoder=identity("large", 768), dimension=768) == list(range(300))


def test_prune_by_size_removes_the_oldest(run_command, folder):
    removed, left = run_cache(run_command, "prune", "--max-size", "500K", folder=folder).lines
    count = int(removed.removeprefix("Removed: ").removesuffix(" entries"))
    assert 150 < count < 300
    assert left.endswith(f" KiB in {folder}")
    large = found_numbers(folder, range(300), encoder=identity("large", 768), dimension=768)
    small = found_numbers(folder, range(5), encoder=identity("small", precision="bf16"))
    assert len(large) + len(small) == 305 - count
    assert large == list(range(300))[-len(large) :]


def test_prune_by_age_keeps_what_was_used_lately(run_command, folder):
    assert run_cache(run_command, "prune", "--older-than", "30", folder=folder).lines[0] == "Removed: 0 entries"
    assert run_cache(run_command, "info", folder=folder).last_line.startswith("Total:   305 vectors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what may stay"),
        (("--max-size", "5X"), "not a size"),
        (("--max-size", "-5"), "not a size"),
        (("--older-than", "-1"), "--older-than"),
        (("--older-than", "soon"), "--older-than"),
    ],
)
def test_prune_refuses_what_it_cannot_understand(run_command, folder, arguments, words):
    assert words in run_cache(run_command, "prune", *arguments, folder=folder, code=2).stderr
    assert run_cache(run_command, "info", folder=folder).last_line.startswith("Total:   305 vectors")


@pytest.mark.parametrize(
    ("text", "size"), [("1048576", 2**20), ("5G", 5 * 2**30), ("1.5 MiB", 3 * 2**19), ("2tb", 2**41)]
)
def test_sizes(text, size):
    from lookalike.cli.cache import _size

    assert _size(text) == size


def test_clear_frees_all(run_command, folder):
    (line,) = run_cache(run_command, "clear", folder=folder).lines
    assert line.startswith("Freed:   1.")
    assert line.endswith(f" MiB in {folder}")
    assert run_cache(run_command, "info", folder=folder).last_line == "Total:   0 vectors, 0 B"
    assert found_numbers(folder, range(5), encoder=identity("small", precision="bf16")) == []


def test_a_folder_that_cannot_be_changed_is_an_error_for_people(run_command, folder):
    """A folder in the place of the lock stands for a disk that takes no writing."""
    (folder / "vectors.lock").unlink()
    (folder / "vectors.lock").mkdir()
    done = run_cache(run_command, "clear", folder=folder, code=1)
    assert f"Error: {folder}: the cache cannot be changed" in done.stderr
    assert "What to do" in done.stderr
