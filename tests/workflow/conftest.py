"""A place for runs with a small encoder that logs every image that it embeds."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.workflow import run_checks
from support.counted_run import CountedEncoder
from support.small_images import picture


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with 3 targets and a pool of 20, labelled; its encoder is small and logs what it embeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_checks, "open_encoder", lambda *arguments: CountedEncoder(tmp_path / "log", 0.0))
    (tmp_path / "images").mkdir()
    for name, numbers in (("targets", range(3)), ("pool", range(100, 120))):
        paths = [picture(tmp_path / "images" / f"{name}_{number}.png", number) for number in numbers]
        labels = ["ok" if number % 2 else "bad" for number in numbers]
        pq.write_table(pa.table({"filepath": paths, "label": labels, "n": list(numbers)}), f"{name}.parquet")
    return tmp_path
