"""What becomes of each pair, against a walk in plain Python as the contract words it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookalike.selection.filters import OUTCOMES, Outcome, select_pairs


def walk(keys, distances, same_label, threshold):
    seen, outcomes = set(), []
    for position, key in enumerate(keys):
        if same_label is not None and not same_label[position]:
            outcomes.append(Outcome.LABEL_MISMATCH)
        elif threshold >= 0 and distances[position] > np.float32(threshold):
            outcomes.append(Outcome.OVER_DISTANCE)
        elif key in seen:
            outcomes.append(Outcome.DUPLICATE)
        else:
            seen.add(key)
            outcomes.append(Outcome.KEPT)
    return outcomes


@given(st.data())
def test_every_pair_has_the_outcome_of_a_walk(data):
    count = data.draw(st.integers(0, 30))
    keys = np.array(data.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)), np.int64)
    distances = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5]), min_size=count, max_size=count)), np.float32
    )
    labels = data.draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count))
    threshold = data.draw(st.sampled_from([-1.0, 0.0, 0.3, 0.4, 9.0]))
    same = None if labels is None else np.array(labels, np.bool_)
    selection = select_pairs(keys, distances, same_label=same, distance_threshold=threshold)
    assert [OUTCOMES[code] for code in selection.outcomes] == walk(keys, distances, labels, threshold)
    assert selection.count(Outcome.KEPT) == selection.kept.sum()
    assert selection.label_filter == (labels is not None)
    assert selection.distance_filter == (threshold >= 0)
