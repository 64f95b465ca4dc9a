"""Reading: bounds before bytes, the root, kinds of files, and URLs that fail for a moment."""

import io
import itertools
import os
import sys
import types
from pathlib import Path

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError

from lookalike.errors import ConfigError, MissingDependency
from lookalike.images.locate import ReadSettings, check_root, local_size, read_bytes, read_part
from lookalike.images.outcome import ImageRejected, Reason

ANY = ReadSettings(root="", max_bytes=1000, retries=0)
numbers = itertools.count()
needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes as POSIX has them")


def rejected(path, settings=ANY, **options):
    with pytest.raises(ImageRejected) as caught:
        read_bytes(str(path), settings, **options)
    return caught.value


def no_sleep(seconds):
    raise AssertionError("there is nothing to wait for")


@pytest.fixture
def no_opening(monkeypatch):
    """Opening any local file is an error from now on."""

    def refuse(*arguments, **options):
        raise AssertionError("a file was opened")

    monkeypatch.setattr(Path, "open", refuse)


# Local files


def test_a_file_is_read_to_its_last_byte(tmp_path):
    data = os.urandom(1000)
    (tmp_path / "a.png").write_bytes(data)
    assert read_bytes(str(tmp_path / "a.png"), ANY) == data
    assert read_bytes(f"file://{tmp_path}/a.png", ANY) == data


def test_an_empty_file_is_read(tmp_path):
    (tmp_path / "a.png").touch()
    assert read_bytes(str(tmp_path / "a.png"), ANY) == b""


def test_relative_paths_start_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"here")
    monkeypatch.chdir(tmp_path)
    assert read_bytes("a.png", ANY) == b"here"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_huge_file_is_refused_from_its_size(tmp_path, scheme, no_opening):
    """A sparse file of 64 GiB; it is not even opened."""
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 1 << 36)
    found = rejected(f"{scheme}{tmp_path}/huge.png")
    assert (found.reason, found.size) == (Reason.TOO_LARGE, 1 << 36)


def test_one_byte_over_the_bound_is_too_large(tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(1001))
    assert rejected(tmp_path / "a.png").reason is Reason.TOO_LARGE
    assert len(read_bytes(str(tmp_path / "a.png"), ReadSettings("", 1001, 0))) == 1001


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs a file whose size is not what it says")
def test_a_file_with_more_bytes_than_its_size_says_is_read_to_the_bound():
    """The system says that this file has 0 bytes."""
    whole = Path("/proc/self/environ").read_bytes()
    assert read_bytes("/proc/self/environ", ReadSettings("", len(whole), 0)) == whole
    assert rejected("/proc/self/environ", ReadSettings("", len(whole) - 1, 0)).reason is Reason.TOO_LARGE


def test_missing_folders_and_impossible_paths(tmp_path):
    assert rejected(tmp_path / "none.png").reason is Reason.MISSING
    assert rejected(tmp_path).reason is Reason.UNREADABLE
    assert rejected(tmp_path).detail == "not a regular file"
    assert rejected("a\0b").reason is Reason.UNREADABLE
    assert rejected("unknownscheme://x/y.png", sleep=no_sleep).reason is Reason.UNREADABLE


@needs_posix
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_pipe_or_device_does_not_block(tmp_path, scheme, no_opening):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    for path in (f"{tmp_path}/pipe.png", f"{tmp_path}/link.png", "/dev/zero"):
        found = rejected(scheme + path)
        assert (found.reason, found.detail) == (Reason.UNREADABLE, "not a regular file")


@needs_posix
def test_links_in_a_circle(tmp_path):
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    for root in ("", str(tmp_path)):
        assert rejected(tmp_path / "a.png", ReadSettings(root, 1000, 0)).reason is Reason.UNREADABLE


# A local root


@pytest.fixture
def inside(tmp_path):
    """Settings with a root that holds a.png and deep/b.png; secret.png lies beside it, and root2 too."""
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(b"a")
    (tmp_path / "root" / "deep" / "b.png").write_bytes(b"b")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "root2" / "c.png").write_bytes(b"secret")
    return ReadSettings(str(tmp_path / "root"), 1000, 3)


def test_files_inside_the_root_are_read_however_they_are_named(inside, tmp_path, monkeypatch):
    """Relative paths start in the root, not in the working directory."""
    (tmp_path / "a.png").write_bytes(b"wrong")
    monkeypatch.chdir(tmp_path)
    for path in ("a.png", f"{tmp_path}/root/a.png", "deep/../a.png", "../root/a.png", f"file://{tmp_path}/root/a.png"):
        assert read_bytes(path, inside) == b"a"
    assert read_bytes("deep/b.png", ReadSettings("root/", 1000, 0)) == b"b"
    assert read_bytes("deep/b.png", ReadSettings(f"file://{tmp_path}/root", 1000, 0)) == b"b"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "deep/../../secret.png",
        "{tmp}/secret.png",
        "{tmp}/root/../secret.png",
        "file://{tmp}/secret.png",
        "file://{tmp}/root/../secret.png",
        "local://{tmp}/secret.png",
        "{tmp}/root2/c.png",
        "../none.png",
        "/dev/zero",
    ],
)
def test_files_outside_the_root_are_refused_unopened(inside, tmp_path, path, no_opening):
    """Whether they exist is not said either."""
    found = rejected(path.format(tmp=tmp_path), inside, sleep=no_sleep)
    assert (found.reason, found.detail) == (Reason.UNREADABLE, f"outside the root {inside.root}")


def test_the_size_and_a_part_of_a_file(inside, tmp_path):
    (tmp_path / "root" / "a.png").write_bytes(b"0123456789")
    assert local_size("a.png", inside) == 10
    assert read_part("a.png", inside, 5, 4) == b"5678"
    assert read_part("a.png", inside, 8, 4) == b"89"
    assert local_size("s3://bucket/a.png", ANY) is None
    for path in ("../secret.png", "none.png", "deep"):
        with pytest.raises(ImageRejected):
            local_size(path, inside)
    with pytest.raises(ImageRejected):
        read_part("../secret.png", inside, 0, 1)


@needs_posix
def test_links_are_followed_inside_the_root_only(inside, tmp_path, monkeypatch):
    root = Path(inside.root)
    (root / "good.png").symlink_to("deep/b.png")
    (root / "bad.png").symlink_to("../secret.png")
    (root / "absolute.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    (root / "chain.png").symlink_to("bad.png")
    (tmp_path / "into").symlink_to(root)
    assert read_bytes("good.png", inside) == b"b"
    assert read_bytes(f"{tmp_path}/into/a.png", inside) == b"a"
    assert read_bytes("a.png", ReadSettings(str(tmp_path / "into"), 1000, 0)) == b"a"
    for path in ("bad.png", "absolute.png", "folder/secret.png", "chain.png"):
        assert "outside the root" in rejected(path, inside).detail
    # `deep/up/..` is where the link points to, not `deep`.
    (tmp_path / "elsewhere").mkdir()
    (root / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    assert "outside the root" in rejected("deep/up/../secret.png", inside).detail


@pytest.mark.parametrize(
    "path", ["memory://root/a.png", "zip://a.png::{tmp}/a.zip", "{tmp}/root/x::file://{tmp}/secret.png"]
)
def test_urls_are_refused_when_the_root_is_a_folder(inside, tmp_path, path):
    fsspec.filesystem("memory").pipe_file("/root/a.png", b"secret")
    found = rejected(path.format(tmp=tmp_path), inside, sleep=no_sleep)
    assert found.reason is Reason.UNREADABLE
    assert "is a URL" in found.detail


def test_a_missing_file_inside_the_root_is_missing(inside):
    assert rejected("none.png", inside).reason is Reason.MISSING


def test_a_root_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for root in ("", str(tmp_path), f"file://{tmp_path}", "memory://nowhere"):
        check_root(root)
    for root in (tmp_path / "none", tmp_path / "file", f"file://{tmp_path}/none"):
        with pytest.raises(ConfigError, match="root is not a folder"):
            check_root(str(root))


# A URL as root


@pytest.fixture
def pool():
    """A store with pool/a.png, a secret beside the pool, and one in a sibling whose name begins alike."""
    store = fsspec.filesystem("memory")
    store.pipe({"/safe/pool/a.png": b"a", "/safe/pool/d/b.png": b"b", "/safe/s.png": b"s", "/safe/pool2/c.png": b"c"})
    yield ReadSettings("memory://safe/pool", 1000, 0)
    store.rm("/safe", recursive=True)


@pytest.mark.parametrize("root", ["memory://safe/pool", "memory://safe/pool/"])
def test_urls_inside_a_url_are_read(pool, root):
    settings = ReadSettings(root, 1000, 0)
    assert read_bytes("memory://safe/pool/a.png", settings) == b"a"
    assert read_bytes("a.png", settings) == b"a"
    assert read_bytes("d/b.png", settings) == b"b"
    assert rejected("none.png", settings).reason is Reason.MISSING


@pytest.mark.parametrize(
    "path",
    [
        "memory://safe/s.png",
        "memory://safe/pool2/c.png",
        "memory://safe/pool/../s.png",
        "memory://safe/pool/d/%2e%2E/../s.png",
        "memory://safe/pool/%2e%2e/s.png",
        "memory://safe/pool/..\\s.png",
        "../s.png",
        "simplecache::memory://safe/s.png",
        "simplecache::/dev/zero",
        "memory://safe/pool/x::file:///dev/zero",
        "file:///dev/zero",
        "/dev/zero",
    ],
)
def test_urls_outside_a_url_are_refused(pool, path):
    found = rejected(path, pool, sleep=no_sleep)
    assert (found.reason, found.detail) == (Reason.UNREADABLE, "outside the root memory://safe/pool/")


# URLs that fail


class Stream(io.RawIOBase):
    """A stream of a length that it does not tell, in pieces of at most 100 bytes; counts what is taken from it."""

    def __init__(self, length):
        self.left = length
        self.taken = 0

    def read(self, count=-1):
        assert count > 0
        part = bytes(min(count, 100, self.left))
        self.left -= len(part)
        self.taken += len(part)
        return part


class Flaky(fsspec.AbstractFileSystem):
    """A file system whose next openings raise, or give, what `script` holds."""

    protocol = "flaky"
    cachable = False
    script: list = []  # noqa: RUF012 - set by every test

    def _open(self, path, mode="rb", **options):
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


@pytest.fixture
def flaky():
    """Give it the steps; what is left in the returned list was not reached."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)

    def plan(*steps):
        Flaky.script = list(steps)
        return Flaky.script

    return plan


def driver_error(monkeypatch, module, name, **fields):
    """An instance of a driver's exception, as if that driver were loaded."""
    kind = type(name, (Exception,), fields)
    fake = types.ModuleType(module)
    setattr(fake, name, kind)
    monkeypatch.setitem(sys.modules, module, fake)
    return kind("from the driver")


TRANSIENT = [
    TimeoutError("slow"),
    FSTimeoutError("slow"),
    ConnectionResetError(104, "reset"),
    BrokenPipeError(32, "broken"),
    OSError(5, "input/output error"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_a_failure_that_passes_is_tried_again_with_longer_and_longer_waits(flaky, error):
    waits = []
    left = flaky(error, error, error, io.BytesIO(b"at last"))
    assert read_bytes("flaky://a.png", ReadSettings("", 1000, 3), sleep=waits.append) == b"at last"
    assert left == []
    assert [0.25 <= waits[0] <= 0.5, 0.5 <= waits[1] <= 1, 1 <= waits[2] <= 2] == [True] * 3


def test_a_failure_in_the_middle_of_a_file_is_tried_again_from_its_start(flaky):
    class Breaks(Stream):
        def read(self, count=-1):
            if self.taken:
                raise ConnectionResetError(104, "reset")
            return super().read(count)

    flaky(Breaks(300), io.BytesIO(b"whole"))
    assert read_bytes("flaky://a.png", ReadSettings("", 1000, 1), sleep=lambda _: None) == b"whole"


def test_a_failure_that_stays_is_unreadable_after_all_tries(flaky):
    waits = []
    left = flaky(*[ConnectionResetError(104, "reset by peer")] * 4, io.BytesIO(b"too late"))
    found = rejected("flaky://a.png", ReadSettings("", 1000, 3), sleep=waits.append)
    assert (found.reason, found.detail) == (Reason.UNREADABLE, "reset by peer (tried 4 times)")
    assert (len(left), len(waits)) == (1, 3)


def test_waits_differ_and_do_not_grow_without_end(flaky):
    waits = []
    flaky(*[TimeoutError()] * 41)
    rejected("flaky://a.png", ReadSettings("", 1000, 40), sleep=waits.append)
    assert max(waits) <= 30
    assert len(set(waits[-30:])) > 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "none"), Reason.MISSING),
        (PermissionError(13, "denied"), Reason.UNREADABLE),
        (IsADirectoryError(21, "folder"), Reason.UNREADABLE),
        (ValueError("odd"), Reason.UNREADABLE),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_a_failure_that_would_stay_is_not_tried_again(flaky, error, reason):
    flaky(error, io.BytesIO(b"never"))
    assert rejected("flaky://a.png", ReadSettings("", 1000, 3), sleep=no_sleep).reason is reason


def test_a_bug_in_a_driver_is_not_an_outcome(flaky):
    flaky(ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        read_bytes("flaky://a.png", ReadSettings("", 1000, 3), sleep=no_sleep)


@pytest.mark.parametrize("status", [None, 500, 503, 408, 429])
def test_a_drivers_own_error_is_tried_again(flaky, monkeypatch, status):
    """aiohttp's errors are no OSError."""
    error = driver_error(monkeypatch, "aiohttp", "ClientError", status=status)
    flaky(error, io.BytesIO(b"at last"))
    assert read_bytes("flaky://a.png", ReadSettings("", 1000, 1), sleep=lambda _: None) == b"at last"


@pytest.mark.parametrize(
    ("status", "reason"), [(401, Reason.UNREADABLE), (403, Reason.UNREADABLE), (404, Reason.MISSING)]
)
def test_a_refusal_by_a_server_is_not_tried_again(flaky, monkeypatch, status, reason):
    flaky(driver_error(monkeypatch, "aiohttp", "ClientError", status=status))
    assert rejected("flaky://a.png", ReadSettings("", 1000, 3), sleep=no_sleep).reason is reason


def wrapped(cause):
    """fsspec's HTTP driver says so of any failure to learn a size."""
    error = FileNotFoundError("http://host/a.png")
    error.__cause__ = cause
    return error


def test_a_connection_that_failed_is_not_a_missing_file(flaky):
    flaky(wrapped(ConnectionResetError(104, "reset")), wrapped(TimeoutError("slow")))
    found = rejected("flaky://a.png", ReadSettings("", 1000, 1), sleep=lambda _: None)
    assert (found.reason, found.detail) == (Reason.UNREADABLE, "slow (tried 2 times)")


def test_a_missing_file_that_a_server_told_of_is_missing(flaky, monkeypatch):
    flaky(wrapped(driver_error(monkeypatch, "aiohttp", "ClientError", status=404)))
    assert rejected("flaky://a.png", ReadSettings("", 1000, 3), sleep=no_sleep).reason is Reason.MISSING


def test_no_more_than_the_bound_and_one_byte_is_fetched(flaky):
    endless = Stream(1 << 60)
    flaky(endless)
    found = rejected("flaky://a.png", ReadSettings("", 1234, 3), sleep=no_sleep)
    assert (found.reason, found.size, endless.taken) == (Reason.TOO_LARGE, None, 1235)
    flaky(Stream(1234))
    assert len(read_bytes("flaky://a.png", ReadSettings("", 1234, 0))) == 1234


def test_a_url_whose_size_is_known_is_refused_unread(flaky):
    stream = Stream(5000)
    stream.size = 5000
    flaky(stream)
    found = rejected("flaky://a.png", ReadSettings("", 1234, 3), sleep=no_sleep)
    assert (found.reason, found.size, stream.taken) == (Reason.TOO_LARGE, 5000, 0)


def test_a_store_in_memory():
    name = f"/locate-{next(numbers)}.png"
    fsspec.filesystem("memory").pipe_file(name, bytes(1001))
    assert read_bytes(f"memory:/{name}", ReadSettings("", 1001, 0)) == bytes(1001)
    assert rejected(f"memory:/{name}").reason is Reason.TOO_LARGE
    assert rejected("memory://locate/none.png", ReadSettings("", 9, 3), sleep=no_sleep).reason is Reason.MISSING
    fsspec.filesystem("memory").rm_file(name)


def test_a_damaged_archive_is_unreadable(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no archive")
    found = rejected(f"zip://a.png::{tmp_path}/a.zip", ReadSettings("", 1000, 3), sleep=no_sleep)
    assert found.reason is Reason.UNREADABLE


def test_a_package_that_is_not_installed_is_an_error_of_the_run():
    fsspec.register_implementation("lacking", "no_such_package.FileSystem", clobber=True)
    with pytest.raises(MissingDependency, match="lacking://a"):
        read_bytes("lacking://a.png", ReadSettings("", 1000, 3), sleep=no_sleep)
