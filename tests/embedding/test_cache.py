"""The cache of vectors: what it finds, and that nothing on the disk makes it lie or fail."""

import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lookalike.embedding import cache as cache_module
from lookalike.embedding import cache_database, cache_folder
from lookalike.embedding.cache import Entry, FileStamp, VectorCache, cache_key, content_digest
from lookalike.embedding.cache_database import SUFFIX
from lookalike.embedding.cache_folder import cache_info, clear, default_cache_dir, folder_bytes, prune
from lookalike.errors import ConfigError
from lookalike.images.decode import DecodeSettings
from lookalike.workflow.barring.looks import identity_of
from support.caches import LONG_AGO_NS, cached_of, entry_of, found_numbers, identity, numbered, same, write_file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def pool(tmp_path):
    """Twenty files of different content."""
    (tmp_path / "pool").mkdir()
    return [write_file(tmp_path / "pool" / f"{number}.png", b"image %d" % number) for number in range(20)]


@pytest.fixture
def day(monkeypatch):
    """A day that the test sets: `day(3)`."""

    def set_day(number):
        for module in (cache_module, cache_folder):
            monkeypatch.setattr(module, "today", lambda: number)

    set_day(100)
    return set_day


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def database(folder, encoder=None):
    return folder / f"{cache_key(encoder or identity())}{SUFFIX}"


def fill(folder, entries, encoder=None):
    with VectorCache(folder, encoder or identity()) as cache:
        cache.store(entries)


def python(code, *arguments, **options):
    """Start Python code in a process of its own."""
    head = (
        "import sys\nfrom pathlib import Path\nfrom lookalike.embedding.cache import *\nfrom support.caches import *\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


# What is found


def test_a_grown_pool_is_found_but_for_what_is_new(folder, pool):
    fill(folder, [entry_of(path) for path in pool[:18]])
    with VectorCache(folder, identity()) as cache:
        found = cache.by_path(pool)
        assert sorted(found) == list(range(18))
        assert all(same(found[row], Path(pool[row]).read_bytes()) for row in found)
        assert found[0].vector.dtype == np.float32
        assert cache.by_content(content_digest(Path(pool[19]).read_bytes())) is None


def test_relative_and_repeated_paths_are_one_file(folder, pool, monkeypatch):
    monkeypatch.chdir(Path(pool[0]).parent)
    fill(folder, [entry_of("0.png")])
    with VectorCache(folder, identity()) as cache:
        assert sorted(cache.by_path([pool[0], pool[1], "0.png", "../pool/0.png"])) == [0, 2, 3]


def test_more_paths_than_one_query_takes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_CHUNK", 7)
    paths = [write_file(tmp_path / f"{number}", b"%d" % number) for number in range(30)]
    fill(folder, [entry_of(path) for path in paths if not path.endswith("3")])
    with VectorCache(folder, identity()) as cache:
        found = cache.by_path(paths)
    assert sorted(found) == [row for row in range(30) if row % 10 != 3]
    assert all(same(found[row], b"%d" % row) for row in found)


def test_names_that_are_no_text_are_found(folder, tmp_path):
    """Linux takes any bytes for a name; Python hands them over with lone surrogates."""
    path = os.fsdecode(bytes(tmp_path) + b"/\xff.png")
    try:
        Path(path).write_bytes(b"image")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    fill(folder, [entry_of(path)])
    with VectorCache(folder, identity()) as cache:
        assert same(cache.by_path([path])[0], b"image")


@pytest.mark.parametrize("change", ["touched", "renamed", "copied"])
def test_a_touched_renamed_or_copied_file_is_found_by_content(folder, pool, change):
    fill(folder, [entry_of(pool[0])])
    path = pool[0] if change == "touched" else pool[0] + ".png"
    if change == "renamed":
        Path(pool[0]).rename(path)
    elif change == "copied":
        shutil.copy(pool[0], path)
    os.utime(path, ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))
    with VectorCache(folder, identity()) as cache:
        assert cache.by_path([path]) == {}
        entry = entry_of(path)
        assert same(cache.by_content(entry.digest), b"image 0")
        cache.store([entry])
        assert same(cache.by_path([path])[0], b"image 0")
    assert cache_info(folder)[0].rows == 1, "one vector, however many names"


def test_content_that_changed_with_the_same_size_and_time_is_seen_by_content_only(folder, pool):
    """The limit of the quick check, which the module's docstring states."""
    fill(folder, [entry_of(pool[0])])
    write_file(Path(pool[0]), b"image X")
    with VectorCache(folder, identity()) as cache:
        assert same(cache.by_path([pool[0]])[0], b"image 0")
        assert cache.by_content(content_digest(b"image X")) is None
        cache.store([entry_of(pool[0])])
        assert same(cache.by_path([pool[0]])[0], b"image X")


def test_content_that_changed_in_size_is_seen_by_path(folder, pool):
    fill(folder, [entry_of(pool[0])])
    write_file(Path(pool[0]), b"another image")
    with VectorCache(folder, identity()) as cache:
        assert cache.by_path([pool[0]]) == {}


def test_a_file_changed_after_its_stamp_is_not_answered_by_path(folder, pool):
    entry = entry_of(pool[0])
    write_file(Path(pool[0]), b"image X", LONG_AGO_NS + 1)
    fill(folder, [entry])
    with VectorCache(folder, identity()) as cache:
        assert cache.by_path([pool[0]]) == {}


def test_a_file_written_just_now_has_no_stamp(folder, tmp_path):
    """It may be written again within the same tick of its modification time."""
    path = tmp_path / "young.png"
    path.write_bytes(b"young")
    assert FileStamp.of(str(path)) is None
    write_file(path, b"young")
    assert FileStamp.of(str(path)) == FileStamp(5, LONG_AGO_NS)
    assert FileStamp.of(str(tmp_path / "missing.png")) is None
    assert FileStamp.of("nul\0l.png") is None


def test_a_url_is_found_by_content_only(folder, pool):
    url = f"file://{pool[0]}"
    assert FileStamp.of(url) is None
    fill(folder, [Entry(url, content_digest(b"image 0"), None, cached_of(b"image 0"))])
    with VectorCache(folder, identity()) as cache:
        assert cache.by_path([url, pool[0]]) == {}
        assert same(cache.by_content(content_digest(b"image 0")), b"image 0")


def test_encoders_and_numerics_stand_side_by_side(folder, pool):
    """Other weights, other precision: other vectors. Where the model was loaded from does not matter."""
    encoders = {name: identity(name, precision=precision) for name, precision in (("a", "fp32"), ("b", "fp32"))}
    encoders["half"] = identity("a", precision="bf16")
    digest = content_digest(b"image 0")
    for name, encoder in encoders.items():
        with VectorCache(folder, encoder) as cache:
            assert cache.by_path(pool) == {}
            cache.store([Entry(pool[0], digest, FileStamp.of(pool[0]), cached_of(name.encode()))])
    for name, encoder in encoders.items():
        with VectorCache(folder, encoder) as cache:
            assert same(cache.by_path(pool)[0], name.encode())
            assert same(cache.by_content(digest), name.encode())
    assert cache_key(identity(model_path="here")) == cache_key(identity(model_path="there"))
    assert len(cache_info(folder)) == 3


def test_an_odd_vector_keeps_its_bits(folder):
    vector = np.array([0.0, -0.0, 1e-45, 3.4e38, 1 / 3, -1.0, 2.0, np.nextafter(1, 2)], np.float32)
    strided = np.repeat(vector, 2)[::2]
    fill(folder, [Entry("s3://a", b"d" * 16, None, cached_of(b"")._replace(vector=strided, pixels=2**40))])
    with VectorCache(folder, identity()) as cache:
        found = cache.by_content(b"d" * 16)
    assert found.vector.tobytes() == vector.tobytes()
    assert found.pixels == 2**40


def test_after_close_nothing_is_found_and_nothing_fails(folder, pool):
    with VectorCache(folder, identity()) as cache:
        cache.store([entry_of(pool[0])])
        assert cache.active
    assert not cache.active
    assert cache.by_path(pool) == {}
    assert cache.by_content(content_digest(b"image 0")) is None
    cache.store([entry_of(pool[1])])
    cache.close()


def test_a_store_that_fails_on_the_way_keeps_nothing_of_it(folder):
    """One transaction: a bug in the third entry takes the first two with it."""
    wrong = Entry("s3://wrong", b"w" * 16, None, cached_of(b"", dimension=5))
    with VectorCache(folder, identity()) as cache:
        cache.store(numbered([1]))
        with pytest.raises(AssertionError):
            cache.store([*numbered([2, 3]), wrong])
        cache.store(numbered([4]))
    assert found_numbers(folder, range(6)) == [1, 4]


# Several at once


def test_threads_read_while_another_stores(folder):
    entries = numbered(range(400))
    stored, failed = threading.Event(), []

    def read(start):
        rounds = 0
        while not stored.is_set() or not rounds:
            rounds += 1
            for number in range(start, 400, 4):
                found = cache.by_content(entries[number].digest)
                if found is not None and not same(found, b"%d" % number):
                    failed.append(number)

    with VectorCache(folder, identity()) as cache:
        with ThreadPoolExecutor(4) as threads:
            readers = [threads.submit(read, start) for start in range(4)]
            try:
                for start in range(0, 400, 20):
                    cache.store(entries[start : start + 20])
            finally:
                stored.set()
            for reader in readers:
                reader.result()
        assert all(cache.by_content(entry.digest) for entry in entries)
    assert failed == []


def test_processes_store_and_read_at_once(folder):
    """Three begin the folder together; each stores a range of its own, and all of them one that they share."""
    code = """
folder, first = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
with VectorCache(folder, identity()) as cache:
    for start in range(0, 200, 10):
        cache.store(numbered(range(first + start, first + start + 10)) + numbered(range(start, start + 10)))
        for number in (first + start, start):
            assert same(cache.by_content(content_digest(b"%d" % number)), b"%d" % number)
"""
    processes = [python(code, folder, first, stdin=subprocess.PIPE) for first in (1000, 2000, 3000)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [(process.communicate()[1], process.returncode) for process in processes]
    assert ends == [("", 0)] * 3
    wanted = [number for first in (0, 1000, 2000, 3000) for number in range(first, first + 200)]
    assert found_numbers(folder, wanted) == wanted
    assert cache_info(folder)[0].rows == 800


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("at", [1, 2500, 3000], ids=["begun", "in the log", "the last row"])
def test_a_writer_killed_in_the_middle_of_a_store_leaves_whole_stores_only(folder, at):
    """3,000 vectors of 768 exceed SQLite's memory, so that the log holds a part of the store when it dies."""
    code = """
import os, signal
from lookalike.embedding import cache as module
calls, checksum, at = [], module._checksum, int(sys.argv[2])
def dying(*values):
    calls.append(None)
    if len(calls) == 10 + at:
        os.kill(os.getpid(), signal.SIGKILL)
    return checksum(*values)
module._checksum = dying
with VectorCache(Path(sys.argv[1]), identity(dimension=768)) as cache:
    cache.store(numbered(range(10), 768))
    cache.store(numbered(range(10, 3010), 768))
"""
    process = python(code, folder, at)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGKILL
    log_bytes = next(folder.glob("*-wal")).stat().st_size
    assert (log_bytes > 1_000_000) == (at > 1), "the unfinished store is partly on the disk"
    assert found_numbers(folder, range(3010), 768) == list(range(10))
    fill(folder, numbered(range(5, 40), 768), identity(dimension=768))
    assert found_numbers(folder, range(3010), 768) == list(range(40))


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_whole_stores_only(folder, caplog):
    code = """
with VectorCache(Path(sys.argv[1]), identity(dimension=768)) as cache:
    first = int(sys.argv[2])
    for start in range(first, first + 1_000_000, 100):
        cache.store(numbered(range(start, start + 100), 768))
        print(start, flush=True)
"""
    for attempt in range(5):
        process = python(code, folder, attempt * 1_000_000)
        starts = [int(process.stdout.readline()) for _ in range(attempt + 1)]
        process.kill()
        starts += [int(line) for line in process.communicate()[0].splitlines()]
        later = range(starts[-1] + 100, starts[-1] + 300)
        found = found_numbers(folder, [*(n for start in starts for n in range(start, start + 100)), *later], 768)
        assert len(found) >= 100 * len(starts), "what store returned from is kept"
        assert len(found) % 100 == 0, "a store is kept whole or not at all"
    assert warnings(caplog) == []


def test_a_database_that_another_process_keeps_busy_is_read_and_costs_a_store(folder, pool, day, caplog, monkeypatch):
    """On the day of the store reading does not want to write; the next day it does, and can do without."""
    monkeypatch.setattr(cache_database, "_BUSY_SECONDS", 0.01)
    fill(folder, map(entry_of, pool[:10]))
    with VectorCache(folder, identity()) as cache, contextlib.closing(sqlite3.connect(database(folder))) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(cache.by_path(pool)) == 10
        assert warnings(caplog) == []
        day(101)
        assert len(cache.by_path(pool)) == 10
        cache.store(map(entry_of, pool))
        assert ["is busy with another process" in warning for warning in warnings(caplog)] == [True, True]
        other.rollback()
        assert len(cache.by_path(pool)) == 10
        cache.store(map(entry_of, pool))
        assert len(cache.by_path(pool)) == 20


# Damage


def overwrite(path, start, data):
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(data)


def of_another_version(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")


def of_another_program(path):
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE vectors (something TEXT); PRAGMA user_version = 1")


RUBBISH = np.random.default_rng(0).bytes(400_000)
CERTAIN = {
    "truncated in its first page": lambda path: os.truncate(path, 1000),
    "truncated after its first page": lambda path: os.truncate(path, 16384),
    "truncated in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "text": lambda path: path.write_text("this is not a database, and it is longer than a header " * 10),
    "rubbish": lambda path: path.write_bytes(RUBBISH),
    "rubbish in the header": lambda path: overwrite(path, 0, RUBBISH[:100]),
    "rubbish for the tables": lambda path: overwrite(path, 100, RUBBISH[:16000]),
    "another version's": of_another_version,
    "another program's": of_another_program,
}


@pytest.mark.parametrize("damage", CERTAIN.values(), ids=CERTAIN)
def test_a_damaged_database_is_dropped_with_one_warning_and_begun_anew(folder, pool, damage, caplog):
    fill(folder, [*numbered(range(2000)), *map(entry_of, pool)])
    damage(database(folder))
    with VectorCache(folder, identity()) as cache:
        found = cache.by_path(pool)
        assert all(same(found[row], Path(pool[row]).read_bytes()) for row in found)
        for number in range(2000):
            answer = cache.by_content(content_digest(b"%d" % number))
            assert answer is None or same(answer, b"%d" % number)
        cache.store([*numbered(range(100)), *map(entry_of, pool)])
        assert sorted(cache.by_path(pool)) == list(range(20))
    (warning,) = warnings(caplog)
    assert "is damaged" in warning
    assert "begun anew" in warning
    assert str(database(folder)) in warning
    assert found_numbers(folder, range(2000)) == list(range(100))


def test_an_empty_file_is_begun_without_a_word(folder, caplog):
    """A process that was killed while it made the database leaves one."""
    folder.mkdir()
    database(folder).touch()
    fill(folder, numbered(range(3)))
    assert found_numbers(folder, range(3)) == [0, 1, 2]
    assert warnings(caplog) == []


@pytest.mark.parametrize("page", range(1, 40, 3))
def test_rubbish_in_any_page_gives_no_wrong_vector(folder, pool, page):
    """Here SQLite may notice nothing; then the checksum of each vector does."""
    encoder = identity(dimension=300)
    entries = [
        entry._replace(cached=cached_of(Path(entry.filepath).read_bytes(), 300)) for entry in map(entry_of, pool)
    ]
    fill(folder, [*numbered(range(400), 300), *entries], encoder)
    assert database(folder, encoder).stat().st_size >= 40 * 16384
    overwrite(database(folder, encoder), page * 16384 + 1000, RUBBISH[:8000])
    for _ in range(2):
        with VectorCache(folder, encoder) as cache:
            for row, answer in cache.by_path(pool).items():
                assert same(answer, Path(pool[row]).read_bytes(), 300)
            for number in range(400):
                answer = cache.by_content(content_digest(b"%d" % number))
                assert answer is None or same(answer, b"%d" % number, 300)
            cache.store([*numbered(range(400), 300), *entries])
            cache.store(numbered(range(400, 800), 300))
    prune(folder, older_than_days=1)
    assert all(info.rows > 0 for info in cache_info(folder))


@pytest.mark.parametrize(
    "change",
    ["vector = x'0000803f'", "vector = x''", "vector = 'text'", "vector = zeroblob(32)", "pixels = pixels + 1",
     "clipped = 'text'", "checksum = 0", "digest = x'00'"],
)  # fmt: skip
def test_a_damaged_row_is_ignored_and_mended_by_the_next_store(folder, change, caplog):
    fill(folder, numbered(range(5)))
    with contextlib.closing(sqlite3.connect(database(folder))) as connection:
        connection.execute(f"UPDATE vectors SET {change} WHERE digest = ?", (content_digest(b"3"),))
        connection.commit()
    assert found_numbers(folder, range(5)) == [0, 1, 2, 4]
    fill(folder, numbered(range(5)))
    assert found_numbers(folder, range(5)) == [0, 1, 2, 3, 4]
    assert warnings(caplog) == []


def test_damage_while_the_database_is_in_use(folder, caplog):
    """Another program writes over it; threads meet that at once, and it is dropped once."""
    fill(folder, numbered(range(5000)))
    with VectorCache(folder, identity()) as cache:
        overwrite(database(folder), 0, RUBBISH)
        with ThreadPoolExecutor(8) as threads:
            digests = [content_digest(b"%d" % number) for number in range(5000)]
            for number, answer in enumerate(threads.map(cache.by_content, digests)):
                assert answer is None or same(answer, b"%d" % number)
        cache.store(numbered(range(10)))
        assert cache.active
    assert len(warnings(caplog)) == 1
    assert found_numbers(folder, range(5000)) == list(range(10))


def test_a_store_that_meets_damage_is_kept_in_the_new_database(folder, caplog):
    fill(folder, numbered(range(5000)))
    with VectorCache(folder, identity()) as cache:
        overwrite(database(folder), 0, RUBBISH)
        cache.store(numbered(range(4990, 5010)))
    assert len(warnings(caplog)) == 1
    assert found_numbers(folder, range(5010)) == list(range(4990, 5010))


def test_a_second_user_of_a_dropped_database_leaves_the_new_one_alone(folder, caplog):
    """Both have the damaged one open; the one drops it, the other goes on with the new one."""
    fill(folder, numbered(range(5000)))
    with VectorCache(folder, identity()) as one, VectorCache(folder, identity()) as two:
        overwrite(database(folder), 0, RUBBISH)
        one.store(numbered(range(10)))
        assert two.by_content(content_digest(b"4999")) is None
        two.store(numbered(range(10, 20)))
    assert len(warnings(caplog)) == 1
    assert found_numbers(folder, range(5000)) == list(range(20))


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files")
def test_a_run_goes_on_in_a_folder_that_was_cleared_under_it(folder, caplog):
    with VectorCache(folder, identity()) as cache:
        cache.store(numbered(range(10)))
        assert clear(folder) > 0
        cache.store(numbered(range(10, 20)))
    assert found_numbers(folder, range(20)) == list(range(10, 20))
    assert warnings(caplog) == []


# Where there can be no cache


def check_off(folder, pool, caplog):
    with VectorCache(folder, identity()) as cache:
        assert not cache.active
        cache.store([entry_of(pool[0])])
        assert cache.by_path(pool) == {}
        assert cache.by_content(content_digest(b"image 0")) is None
    (warning,) = warnings(caplog)
    assert "the cache is off" in warning
    assert str(folder) in warning


def test_a_folder_in_the_place_of_the_database_is_left_alone(folder, pool, caplog):
    inside = database(folder) / "precious"
    inside.parent.mkdir(parents=True)
    inside.write_text("mine")
    check_off(folder, pool, caplog)
    assert clear(folder) == 0
    assert inside.read_text() == "mine"


def test_a_file_in_the_place_of_the_folder(tmp_path, pool, caplog):
    (tmp_path / "file").write_text("mine")
    check_off(tmp_path / "file", pool, caplog)
    caplog.clear()
    check_off(tmp_path / "file" / "cache", pool, caplog)
    assert cache_info(tmp_path / "file") == []
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("filled", [False, True])
def test_an_unwritable_folder(folder, pool, caplog, filled):
    folder.mkdir()
    if filled:
        fill(folder, numbered(range(3)))
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
        if filled:
            (folder / "vectors.lock").chmod(0o444)
            with pytest.raises(ConfigError, match="cannot be changed"):
                clear(folder)
        check_off(folder, pool, caplog)
    finally:
        folder.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="needs setrlimit")
def test_a_full_disk_switches_the_cache_off_and_keeps_what_was_stored(folder):
    """A bound on the size of a file stands for the disk."""
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with VectorCache(Path(sys.argv[1]), identity(dimension=768)) as cache:
    cache.store(numbered(range(10), 768))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    for start in range(10, 5010, 1000):
        cache.store(numbered(range(start, start + 1000), 768))
    assert not cache.active
    assert cache.by_content(content_digest(b"1")) is None
"""
    process = python(code, folder)
    output, errors = process.communicate()
    assert (process.returncode, output) == (0, "")
    assert errors.count("the cache is off") == 1, errors
    assert found_numbers(folder, range(5010), 768) == list(range(10))


# The size bound


def test_the_least_recently_used_entries_go_first(folder, tmp_path, day):
    """Two encoders, one bound: what was stored first and used since stays, what was not used goes."""
    one, two = identity("one", 768), identity("two", 768)
    paths = [write_file(tmp_path / f"{number}", b"%d" % number) for number in range(100)]
    day(1)
    fill(folder, [entry_of(path, 768) for path in paths], one)
    day(2)
    fill(folder, numbered(range(100), 768), two)
    day(3)
    fill(folder, numbered(range(100, 200), 768), one)
    day(4)
    with VectorCache(folder, one) as cache:
        assert len(cache.by_path(paths[:50])) == 50
    with VectorCache(folder, two) as cache:
        assert all(cache.by_content(content_digest(b"%d" % number)) for number in range(10))
    total = folder_bytes(folder)
    day(5)
    with VectorCache(folder, one, size_bound=total) as cache:
        cache.store(numbered(range(200, 210), 768))
    assert folder_bytes(folder) <= 0.8 * total
    left_one, left_two = (
        found_numbers(folder, range(200), encoder=one, dimension=768),
        found_numbers(folder, range(200), encoder=two, dimension=768),
    )
    # About 60 rows make a fifth of 300: the 50 of day 1 that were not used again, then some of day 2, oldest first.
    assert [number for number in left_one if number < 100] == list(range(50))
    assert [number for number in left_one if number >= 100] == list(range(100, 200))
    assert left_two[:10] == list(range(10)), "used on day 4"
    assert left_two[10:] == list(range(100))[-len(left_two[10:]) :], "of one day, what was stored first goes first"
    assert 20 < len(left_two) < 100


def test_a_folder_under_its_bound_loses_nothing_and_one_over_it_stays_bounded(folder, day):
    encoder = identity(dimension=768)
    bound = 2_000_000
    with VectorCache(folder, encoder, size_bound=bound) as cache:
        for start in range(0, 3000, 100):
            day(start)
            cache.store(numbered(range(start, start + 100), 768))
            assert folder_bytes(folder) <= bound
            if start == 100:
                assert cache_info(folder)[0].rows == 200
    found = found_numbers(folder, range(3000), 768)
    assert found == list(range(3000))[-len(found) :]
    assert 0.5 * bound < len(found) * 3072 < bound
    with contextlib.closing(sqlite3.connect(database(folder, encoder))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_log_alone_does_not_push_vectors_out(folder):
    """What is stored stands in the log and then in the database too; only the latter counts."""
    entries, encoder = numbered(range(500), 768), identity(dimension=768)
    fill(folder, entries, encoder)
    bound = int(1.1 * folder_bytes(folder))
    with VectorCache(folder, encoder, size_bound=bound) as cache:
        cache.store(entry._replace(cached=entry.cached._replace(pixels=1)) for entry in entries)
        assert all(cache.by_content(entry.digest).pixels == 1 for entry in entries)
        assert folder_bytes(folder) <= bound


def test_a_bound_smaller_than_one_store_keeps_no_vector_and_goes_on(folder, caplog):
    with VectorCache(folder, identity(dimension=768), size_bound=1) as cache:
        for start in (0, 50):
            cache.store(numbered(range(start, start + 50), 768))
            assert cache.by_content(content_digest(b"%d" % start)) is None
        assert cache.active
    assert cache_info(folder)[0].rows == 0
    assert warnings(caplog) == []


def test_paths_of_evicted_vectors_go_with_them(folder, pool, day):
    day(1)
    fill(folder, map(entry_of, pool[:10]))
    day(9)
    fill(folder, map(entry_of, pool[10:]))
    assert prune(folder, older_than_days=7) == 10
    with contextlib.closing(sqlite3.connect(database(folder))) as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchall() == [(10,)]
    with VectorCache(folder, identity()) as cache:
        assert sorted(cache.by_path(pool)) == list(range(10, 20))


def test_reading_writes_once_a_day(folder, pool, day):
    day(1)
    with VectorCache(folder, identity()) as cache:
        cache.store(map(entry_of, pool))
        (log_file,) = folder.glob("*-wal")
        before = log_file.read_bytes()
        for _ in range(3):
            assert len(cache.by_path(pool)) == 20
        assert log_file.read_bytes() == before
        day(2)
        assert len(cache.by_path(pool[:15])) == 15
        once = log_file.read_bytes()
        assert once != before
        assert len(cache.by_path(pool[:15])) == 15
        assert log_file.read_bytes() == once
    assert prune(folder, older_than_days=0) == 5


# The folder as a whole


def test_prune_takes_a_size_and_an_age(folder, day):
    for number in range(4):
        day(number)
        fill(folder, numbered(range(100 * number, 100 * number + 100), 768), identity(dimension=768))
    assert prune(folder) == 0
    assert prune(folder, older_than_days=3) == 0
    assert prune(folder, older_than_days=2) == 100
    before = folder_bytes(folder)
    assert prune(folder, max_bytes=before) == 0
    removed = prune(folder, max_bytes=before // 2)
    assert 100 <= removed <= 250
    assert folder_bytes(folder) <= before // 2
    assert found_numbers(folder, range(400), 768) == list(range(100 + removed, 400))


def test_info_tells_what_is_there(folder, day):
    day(19_000)
    fill(folder, numbered(range(500), 768), identity("large", 768))
    day(19_001)
    fill(folder, numbered(range(3)), identity("small"))
    (folder / f"{'0' * 32}{SUFFIX}").write_text("rubbish")
    large, small, rubbish = cache_info(folder)
    assert (large.identity, large.rows, str(large.last_used)) == (identity("large", 768), 500, "2022-01-08")
    assert (small.identity, small.rows, str(small.last_used)) == (identity("small"), 3, "2022-01-09")
    assert large.key == cache_key(identity("large", 768))
    assert large.bytes > 500 * 3072
    assert (rubbish.identity, rubbish.rows, rubbish.bytes, rubbish.last_used) == (None, 0, 7, None)
    assert sum(info.bytes for info in (large, small, rubbish)) == folder_bytes(folder)


def test_prune_drops_what_cannot_be_read(folder, caplog):
    fill(folder, numbered(range(3)))
    rubbish = folder / f"{'0' * 32}{SUFFIX}"
    rubbish.write_bytes(RUBBISH)
    assert prune(folder, max_bytes=10**9) == 0
    assert not rubbish.exists()
    assert len(warnings(caplog)) == 1
    assert found_numbers(folder, range(3)) == [0, 1, 2]


def test_clear_deletes_databases_and_nothing_else(folder):
    assert clear(folder) == 0
    assert not folder.exists()
    fill(folder, numbered(range(10)))
    fill(folder, numbered(range(10)), identity("other"))
    (folder / "mine.sqlite").write_text("mine")
    (folder / "pool.parquet").write_text("mine")
    size = folder_bytes(folder)
    assert clear(folder) == size > 0
    assert cache_info(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["mine.sqlite", "pool.parquet", "vectors.lock"]


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.setenv("LOOKALIKE_CACHE", "~/vectors")
    assert default_cache_dir() == Path.home() / "vectors"
    monkeypatch.delenv("LOOKALIKE_CACHE")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for platform, variable, without in (
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("darwin", "XDG_CACHE_HOME", "Library/Caches"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
    ):
        monkeypatch.setattr(cache_folder.sys, "platform", platform)
        assert default_cache_dir() == tmp_path / variable / "lookalike"
        with monkeypatch.context() as inner:
            inner.delenv(variable)
            assert default_cache_dir() == Path.home() / without / "lookalike"


def test_stamps_that_could_be_wrong_are_forgotten_and_vectors_stay(tmp_path, pool):
    """Layout 1 took stamps of relative paths below a root from the working directory."""
    with VectorCache(tmp_path / "cache", identity()) as cache:
        cache.store(map(entry_of, pool))
    (path,) = (tmp_path / "cache").glob(f"*{SUFFIX}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    with VectorCache(tmp_path / "cache", identity()) as cache:
        assert cache.by_path(pool) == {}
        entries = [entry_of(one) for one in pool]
        assert all(cache.by_content(entry.digest) is not None for entry in entries)
        cache.store(entries)
        assert len(cache.by_path(pool)) == len(pool)


def test_an_identity_that_damage_made_null_stops_nothing(tmp_path):
    for name in "ab":
        with VectorCache(tmp_path, identity(name)) as cache:
            cache.store(numbered(range(200)))
    path = sorted(tmp_path.glob(f"*{SUFFIX}"))[0]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE encoder; CREATE TABLE encoder (identity BLOB); INSERT INTO encoder VALUES (NULL)"
        )
    assert sorted(info.identity is None for info in cache_info(tmp_path)) == [False, True]
    assert prune(tmp_path, max_bytes=folder_bytes(tmp_path) // 2) > 0


@pytest.mark.parametrize("name", "abcdef")
def test_of_one_day_pictures_go_before_vectors(tmp_path, name):
    """Whatever the order of their databases' names, which are hashes."""
    encoder, pictures = identity(name), identity_of(DecodeSettings("ignore", "clip", 1000))
    size = pictures.model.dimension
    with VectorCache(tmp_path, encoder) as vectors, VectorCache(tmp_path, pictures) as looks:
        vectors.store(numbered(range(200)))
        looks.store(numbered(range(200), size))
    prune(tmp_path, max_bytes=folder_bytes(tmp_path) // 2)
    assert len(found_numbers(tmp_path, range(200), encoder=encoder)) == 200
    assert 0 < len(found_numbers(tmp_path, range(200), size, pictures)) < 200
