"""A forward pass is not recorded once memory ran out. Without a GPU the first try to record fails loudly."""

import pytest
import torch

from lookalike.encoders.base import Slices, TorchEncoder
from lookalike.encoders.graph import GraphedForward

BATCH = torch.ones(2, 3)
#: More than the number of batches of one shape after which it would be recorded.
MANY = 6

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU records; tests/gpu has its tests")


def short_of_memory(first):
    """A forward pass whose first calls find no memory."""
    calls = iter(range(1000))

    def forward(batch):
        if next(calls) < first:
            raise torch.OutOfMemoryError("no memory")
        return batch * 2

    return GraphedForward(forward)


def test_the_third_batch_of_a_shape_would_be_recorded():
    """What the other tests rest on."""
    graphed = short_of_memory(0)
    with pytest.raises(RuntimeError):
        for _ in range(MANY):
            graphed(BATCH)


def test_a_model_that_ran_out_of_memory_is_not_recorded():
    graphed = short_of_memory(1)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(BATCH)
    for _ in range(MANY):
        assert torch.equal(graphed(BATCH), BATCH * 2)


def test_nothing_is_recorded_once_something_else_found_no_memory():
    graphed = short_of_memory(0)
    cpu = torch.device("cpu")
    TorchEncoder(None, None, graphed, cpu, torch.float32, Slices.of(cpu, cpu=4)).memory_ran_out()
    for _ in range(MANY):
        assert torch.equal(graphed(BATCH), BATCH * 2)
