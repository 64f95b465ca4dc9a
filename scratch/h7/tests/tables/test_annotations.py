"""Which classes an image shows: COCO and KITTI, matching by path, base name and stem, and what cannot be right."""

import json
from collections import Counter

import pytest

from lookalike.errors import TableError
from lookalike.tables.annotations import read_annotations


def coco(tmp_path, **changes):
    content = {
        "images": [
            {"id": 1, "file_name": "/a/x.png"}, {"id": 2, "filepath": "b/./y.png"}, {"id": 3, "file_path": "c\\z.png"},
        ],
        "categories": [{"id": 7, "name": "Car"}, {"id": 9, "name": "person"}],
        "annotations": [{"image_id": 1, "category_id": 7}] * 2 + [{"image_id": 3, "category_id": 9}],
    }  # fmt: skip
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def test_coco(tmp_path):
    found = read_annotations(coco(tmp_path), "coco")
    assert found.names == {"car", "person"}
    assert found.of(["/a/x.png", "b/y.png", "/elsewhere/z.png", "q.png"]) == [
        Counter(car=2), Counter(), Counter(person=1), None,
    ]  # fmt: skip
    assert found.of(["z.jpg"]) == [Counter(person=1)]
    assert found.of(["z.jpg", "z.png"]) == [None, Counter(person=1)]  # the stem is that of two images of the table


def test_ambiguous_names_do_not_match(tmp_path):
    images = [{"id": 1, "file_name": "a/x.png"}, {"id": 2, "file_name": "b/x.png"}, {"id": 3, "file_name": "y.png"}]
    path = coco(tmp_path, images=images)
    found = read_annotations(path, "coco")
    # Two annotated images are x; two images of the table are y. Full paths still match.
    assert found.of(["a/x.png", "/data/x.png"]) == [Counter(car=2), None]
    assert found.of(["/1/y.png", "/2/y.png"]) == [None, None]
    assert found.of(["/1/y.png", "/1/y.png"]) == [Counter(person=1)] * 2  # the same image twice is no ambiguity


def test_kitti(tmp_path):
    tail = "0 0 0 1 1 2 2 1"  # with the class: 9 fields
    (tmp_path / "sub").mkdir()
    (tmp_path / "000001.txt").write_text(f"Car {tail}\ncar {tail} 1 1 1 1 1 1\nDontCare {tail}\n\nCar 1 2 3\n")
    (tmp_path / "sub" / "000002.txt").write_text("")
    found = read_annotations(str(tmp_path), "kitti")
    assert found.of(["/img/000001.png", "000002.jpg", "3.png"]) == [Counter(car=2), Counter(), None]
    assert found.skipped == (1, f"{tmp_path / '000001.txt'}, line 5")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "is no COCO file"),
        ({"images": [{"id": 1}]}, "has none of file_name"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "the same 'id'"),
        ({"categories": []}, "names an id that is not there: KeyError"),
        ({"annotations": [{"image_id": 5, "category_id": 7}]}, "names an id that is not there: KeyError"),
    ],
)
def test_coco_that_cannot_be_right(tmp_path, changes, words):
    with pytest.raises(TableError, match=words):
        read_annotations(coco(tmp_path, **changes), "coco")


def test_the_format_is_not_inferred(tmp_path):
    path = coco(tmp_path)
    with pytest.raises(TableError, match="is no folder"):
        read_annotations(path, "kitti")
    with pytest.raises(TableError, match="is a folder"):
        read_annotations(str(tmp_path), "coco")
    with pytest.raises(TableError, match=r"no \*.txt"):
        read_annotations(str(tmp_path), "kitti")
    (tmp_path / "yolo.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(TableError, match="no line has the 9 fields"):
        read_annotations(str(tmp_path), "kitti")
    with pytest.raises(TableError, match="does not exist"):
        read_annotations(str(tmp_path / "none"), "coco")
    (tmp_path / "coco.json").write_text("{")
    with pytest.raises(TableError, match="cannot be read as JSON"):
        read_annotations(path, "coco")
