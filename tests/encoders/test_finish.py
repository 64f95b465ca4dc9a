"""The settings that every family has: vectors of length 1, means over turned images; and those that not all have."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import ConfigError, embed_images


@pytest.fixture
def pictures(tmp_path):
    """Five square pictures, each as it is, mirrored, and turned by quarters."""
    random = np.random.default_rng(0)
    paths = {name: [] for name in ("as it is", "mirrored", "90", "180", "270")}
    for number in range(5):
        image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
        turned = {
            "as it is": image,
            "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            "90": image.transpose(Image.Transpose.ROTATE_90),
            "180": image.transpose(Image.Transpose.ROTATE_180),
            "270": image.transpose(Image.Transpose.ROTATE_270),
        }
        for name, picture in turned.items():
            path = tmp_path / f"{number} {name}.png"
            picture.save(path)
            paths[name].append(str(path))
    return paths


def embedded(paths, snapshot, tmp_path, **settings):
    output = tmp_path / f"{len(list(tmp_path.glob('*.parquet')))}.parquet"
    result = embed_images(pa.table({"filepath": paths}), output, "CLIP", str(snapshot), cache_dir="off", **settings)
    return np.stack(pq.read_table(output).column("embedding").to_numpy()), result.identity


def test_a_mean_over_turned_images_is_that_of_the_images_turned_beforehand(pictures, clip_snapshot, tmp_path):
    plain = {name: embedded(paths, clip_snapshot, tmp_path)[0] for name, paths in pictures.items()}
    _, before = embedded(pictures["as it is"], clip_snapshot, tmp_path)
    for augment, names in (("flip", ["as it is", "mirrored"]), ("rot90", ["as it is", "90", "180", "270"])):
        found, identity = embedded(pictures["as it is"], clip_snapshot, tmp_path, augment=augment)
        np.testing.assert_allclose(found, np.mean([plain[name] for name in names], axis=0), atol=1e-5)
        assert identity.fingerprint != before.fingerprint
        assert augment in identity.model.pooling


def test_vectors_of_length_one(pictures, clip_snapshot, tmp_path):
    raw, before = embedded(pictures["as it is"], clip_snapshot, tmp_path)
    unit, identity = embedded(pictures["as it is"], clip_snapshot, tmp_path, normalize="true")
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert (before.model.normalisation, identity.model.normalisation) == ("none", "l2")
    assert before.fingerprint != identity.fingerprint
    _, same = embedded(pictures["as it is"], clip_snapshot, tmp_path, normalize="false")
    assert same.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "settings",
    [{"pooling": "max"}, {"layer": 3}, {"image_size": -1}, {"trust_remote_code": True}, {"augment": "twist"}],
    ids=str,
)
def test_what_a_family_does_not_take_is_refused(settings, clip_snapshot, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        embedded(["no such file.png"], clip_snapshot, tmp_path, **settings)
