"""Fixtures that every test folder uses: tiny models, small images, and the installed commands in a subprocess."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import snapshots
from support.commands import Completed, command_environment, script


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests never read or fill the user's cache; those that are not about it have none."""
    before = os.environ.get("LOOKALIKE_CACHE")
    os.environ["LOOKALIKE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["LOOKALIKE_CACHE"]
    else:
        os.environ["LOOKALIKE_CACHE"] = before


@pytest.fixture
def locked():
    """`with locked(content) as folder`: a folder that this process may read and not write into, root's process too."""

    if os.name == "nt":
        pytest.skip("modes are those of POSIX")

    @contextlib.contextmanager
    def lock(content=None):
        # Not in pytest's own folder, which only its owner may enter.
        with tempfile.TemporaryDirectory() as name:
            outer, folder = Path(name), Path(name) / "locked"
            shutil.copytree(content, folder) if content else folder.mkdir()
            for path in (outer, folder, *folder.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
            is_root = hasattr(os, "setresuid") and os.geteuid() == 0
            if is_root:  # root may write anywhere: be somebody else; the saved identity leads back
                os.setresuid(65534, 65534, 0)
            try:
                yield folder
            finally:
                if is_root:
                    os.setresuid(0, 0, 0)
                for path in (outer, folder, *(one for one in folder.rglob("*") if one.is_dir())):
                    path.chmod(0o755)

    return lock


@pytest.fixture(scope="session")
def run_command():
    """Run an installed console script: `run_command("tmm", "nearest_neighbors", "topn=3", cwd=folder, env={...})`."""

    def run(name, *arguments, cwd, env=None):
        done = subprocess.run(
            [script(name), *map(str, arguments)],
            cwd=cwd,
            env=command_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def start_command():
    """Start an installed console script and return its process; what still runs at the end of the test is killed."""
    started = []

    def start(name, *arguments, cwd, env=None):
        # A shell that runs pytest in the background hands SIGINT down as ignored, and so would this process.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [script(name), *map(str, arguments)],
            cwd=cwd,
            env=command_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        signal.signal(signal.SIGINT, before)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdout, process.stderr):
            stream.close()
        process.wait()


@pytest.fixture(scope="session")
def clip_snapshot(tmp_path_factory):
    """A folder with a tiny CLIP model: 24-d vectors."""
    return snapshots.clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def siglip_snapshot(tmp_path_factory):
    """A folder with a tiny SigLIP model: 32-d vectors."""
    return snapshots.siglip(tmp_path_factory.mktemp("models") / "tiny-siglip")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of twelve small colour textures, JPEG and PNG, of many shapes. Read only."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        rng = np.random.default_rng(number)
        height, width = 24 + 7 * number, 90 - 5 * number
        coarse = rng.integers(0, 256, (2 + number % 5, 3 + number % 4, 3), dtype=np.uint8)
        texture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        texture.save(folder / f"board_{number:02d}.{'jpg' if number % 2 else 'png'}")
    return folder
