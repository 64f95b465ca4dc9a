"""The greedy cover of a floor against its definition, looked up anew for every image that it takes."""

import numpy as np
import pytest

from lookalike.selection.floor import Cover


def by_definition(images, targets, places, short):
    owners = {image: set(targets[images == image].tolist()) for image in images.tolist()}
    place = {image: places[images == image].min() for image in owners}
    taken = []
    while True:
        left = {image: len(own & short) for image, own in owners.items() if image not in taken}
        worth = {image: count / np.log(2 + place[image]) for image, count in left.items() if count}
        if not worth:
            return taken
        taken.append(min(worth, key=lambda image: (-worth[image], place[image])))
        short = short - owners[taken[-1]]


@pytest.mark.parametrize("seed", range(10))
def test_next_is_who_serves_most_for_its_cost(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 120))
    rows, targets = random.integers(0, 40, count), random.integers(0, 12, count)
    images = rows // 2 + 100  # two rows are one image
    place_of = random.permutation(40)
    cover, short = Cover(images, targets, place_of[rows]), random.random(12) < 0.8
    expected = by_definition(images, targets, place_of[rows], set(np.flatnonzero(short).tolist()))
    taken = []
    while (number := cover.take(short)) is not None:
        taken.append(number)
        short[targets[images == number]] = False
    assert taken == expected


def test_an_image_of_many_targets_spares_the_budget():
    # Ten targets: one image each with a good score, and one image of all with a score in the middle.
    images = np.r_[np.arange(10), np.full(10, 10)]
    cover = Cover(images, np.tile(np.arange(10), 2), np.r_[np.arange(10), np.full(10, 30)])
    assert cover.take(np.ones(10, bool)) == 10
    assert cover.take(np.zeros(10, bool)) is None
    # Far down it is not worth it.
    far = Cover(images[:11], np.r_[np.arange(10), 0], np.r_[np.zeros(10, int), 30])
    assert far.take(np.ones(10, bool)) < 10


def test_nobody_has_candidates():
    assert Cover(*np.empty((3, 0), np.int64)).take(np.ones(3, bool)) is None
