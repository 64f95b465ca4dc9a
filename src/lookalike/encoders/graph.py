"""A forward pass on a GPU, recorded once and replayed."""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

#: The batch of one shape that is recorded: a few small runs are not worth the memory.
_RECORDED = 3
#: Largest difference between a replay and the plain pass, relative to the largest value. Both run the same kernels.
_TOLERANCE = 0.01


class GraphedForward:
    """Calls a forward pass; from the third batch of one shape on, it replays a CUDA graph of it.

    Launching the kernels of a ViT-B takes Python 6 to 9 ms, during which no other thread that prepares images may
    run; an H100 needs 24 ms to compute them for 256 images. A graph is one launch.

    Parameters
    ----------
    forward:
        From a batch on a CUDA device to vectors there. One that waits for the device cannot be recorded, and is called
        plainly every time; but torch's memory allocator suffers from the attempt, so it should not be given.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._forward = forward
        self._seen: Counter[torch.Size] = Counter()
        self._records = True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input = self._output = torch.empty(0)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Vectors of a batch; the same on either way."""
        if self._graph is None and self._records:
            self._seen[batch.shape] += 1
            if self._seen[batch.shape] == _RECORDED:
                self._record(batch)
        if self._graph is None or batch.shape != self._input.shape:
            try:
                return self._forward(batch)
            except torch.OutOfMemoryError:
                self.stop_recording()
                raise
        self._input.copy_(batch)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it

    def stop_recording(self) -> None:
        """Record nothing from now on: to be called when memory runs out. A graph takes memory of its own.

        Where memory runs out while one thread records and another allocates, torch 2.11 ends the process.
        """
        self._records = False

    def _record(self, batch: torch.Tensor) -> None:
        """Record the forward pass, and keep the record if it gives the plain pass's vectors for another batch, too."""
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(batch.device)
        given = batch.clone()
        try:
            with torch.cuda.device(batch.device):
                # A stream of this device (torch's own for graphs is that of the first device ever recorded on). Other
                # threads go on working on the device meanwhile.
                own = torch.cuda.Stream(batch.device)  # type: ignore[no-untyped-call]
                with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
                    vectors = self._forward(given)
                graph.replay()
                given.neg_()
                graph.replay()
                plain = self._forward(given).float()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            self.stop_recording()
            torch.cuda.set_stream(stream)  # a recording that fails leaves its own behind
            _leave_recording(batch.device)
            # Ending a recording that ran out of memory may raise another error in its turn.
            if any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__context__)):
                # Such a graph may end the process when it is destroyed: it never is.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph))
            log.debug("the forward pass cannot be recorded: %s", error)
            return
        if (vectors.float() - plain).abs().max() > _TOLERANCE * plain.abs().max():
            log.debug("the forward pass is not recorded: a replay gives other vectors")
            return
        self._graph, self._input, self._output = graph, given, vectors


def _leave_recording(device: torch.device) -> None:
    """Give torch's random generator back what a failed recording leaves it in: a state that refuses to work."""
    generator = torch.cuda.default_generators[torch.cuda._utils._get_device_index(device)]
    generator.graphsafe_set_state(generator.clone_state())
