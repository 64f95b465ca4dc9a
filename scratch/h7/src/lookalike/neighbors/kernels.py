"""The search's inner loops, compiled by Numba; they release Python's lock, so that threads run them side by side.

Compiled code is kept on disk: only the first search after an installation waits for the compiler.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Sums may be taken in any order, which lets the compiler use the processor's vectors; every bound allows for that.
_SUMS = {"reassoc", "contract", "nsz"}
#: Sources that `manhattan` holds in the processor's cache, and those it adds up at a time.
_TILE = 32
#: Scores that are compared at a time before anything is done about one.
_RUN = 32


def _compiled(**options):
    """Compile a function when it is first called; keep the result on disk, where that may be written to."""

    def compile_(function):
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's own: a container with a read-only disk
            return njit(nogil=True, **options)(function)

    return compile_


@_compiled()
def scan(scores, scale, offset, margins, first, starts, restore, heap, picked, uppers, counts):
    """Collect what may be among the k best of each target, from one block of scores.

    A score s says that the true one is between s - margin and s + margin. A source is dropped only when its upper end
    is below the k-th largest lower end seen so far.

    Parameters
    ----------
    scores:
        targets x sources.
    scale, offset:
        Per source: its score is score * scale + offset.
    margins:
        Per target.
    first:
        Number of the first source.
    starts:
        Per target, the column to begin at; becomes the column where its room ended, or the number of sources.
    restore:
        Where room ends, undo what this call did for the target, and leave `starts` alone.
    heap:
        targets x k, the k largest lower ends, the least of them first (a binary heap).
    picked, uppers, counts:
        targets x room: numbers of the sources, their upper ends; and how many there are.
    """
    count, columns = scores.shape
    room = picked.shape[1]
    saved = np.empty(heap.shape[1])
    for target in range(count):
        row, lowers, margin = scores[target], heap[target], margins[target]
        held = before = counts[target]
        if restore:
            saved[:] = lowers
        least = _threshold(row, lowers[0] - margin)
        column = starts[target]
        full = False
        while column < columns and not full:
            end = min(column + _RUN, columns)
            # One maximum of a run is what a compiler does best; few runs hold anything.
            largest = row[column] * scale[column] + offset[column]
            for other in range(column + 1, end):
                largest = max(largest, row[other] * scale[other] + offset[other])
            if largest >= least:
                while column < end:
                    score = row[column] * scale[column] + offset[column]
                    if score >= least:
                        if held == room:
                            earlier = _compact(picked[target], uppers[target], lowers[0], 0, 0, before)
                            held = _compact(picked[target], uppers[target], lowers[0], earlier, before, held)
                            before = earlier
                            if held == room:
                                full = True
                                break
                        picked[target, held] = first + column
                        uppers[target, held] = np.float64(score) + margin
                        held += 1
                        if np.float64(score) - margin > lowers[0]:
                            _replace_least(lowers, np.float64(score) - margin)
                            least = _threshold(row, lowers[0] - margin)
                    column += 1
            column = end if not full else column
        if full and restore:
            lowers[:] = saved
            counts[target] = before
        else:
            counts[target] = held
            starts[target] = column


@_compiled(inline="always")
def _threshold(row, value):
    """A value in the scores' own type, rounded down: a threshold must never rise by its own rounding."""
    return row.dtype.type(value - abs(value) * 3e-7 - 1e-37)


@_compiled()
def _compact(picked, uppers, floor, kept, begin, end):
    """Move what the floor has not overtaken, of begin to end, down to `kept`; return the end of it.

    A floor stays true even where a call is undone: the sources that raised it are there.
    """
    for number in range(begin, end):
        if uppers[number] >= floor:
            picked[kept], uppers[kept] = picked[number], uppers[number]
            kept += 1
    return kept


@_compiled()
def _replace_least(heap, value):
    """Put a value in the place of the least of a binary heap."""
    size, place = len(heap), 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@_compiled(fastmath=_SUMS)
def manhattan(targets, sources, scores):
    """Negative L1 distances (targets x sources) into `scores`; all three of one type."""
    dimension = targets.shape[1]
    for begin in range(0, len(sources), _TILE):
        end = min(begin + _TILE, len(sources))
        whole = begin + (end - begin) // 4 * 4
        for target in range(len(targets)):
            vector = targets[target]
            for number in range(begin, whole, 4):
                one, two, three, four = sources[number], sources[number + 1], sources[number + 2], sources[number + 3]
                first = second = third = fourth = scores.dtype.type(0)
                for axis in range(dimension):
                    value = vector[axis]
                    first += abs(value - one[axis])
                    second += abs(value - two[axis])
                    third += abs(value - three[axis])
                    fourth += abs(value - four[axis])
                scores[target, number], scores[target, number + 1] = -first, -second
                scores[target, number + 2], scores[target, number + 3] = -third, -fourth
            for number in range(whole, end):
                total = scores.dtype.type(0)
                for axis in range(dimension):
                    total += abs(vector[axis] - sources[number, axis])
                scores[target, number] = -total


@_compiled(fastmath=_SUMS)
def measure_cosine(targets, sources, left, right, distances):
    """1 - cos of pairs of float32 vectors, in float64: row left[i] of targets to row right[i] of sources.

    The three sums are taken in one loop, so in one order: equal vectors have distance exactly 0.
    """
    for pair in range(len(left)):
        one, two = targets[left[pair]], sources[right[pair]]
        product = one_square = two_square = 0.0
        for axis in range(len(one)):
            a, b = np.float64(one[axis]), np.float64(two[axis])
            product += a * b
            one_square += a * a
            two_square += b * b
        squares = one_square * two_square
        cosine = product / np.sqrt(squares) if squares > 0 else 0.0
        distances[pair] = min(max(1.0 - cosine, 0.0), 2.0)


@_compiled(fastmath=_SUMS)
def measure_euclidean(targets, sources, left, right, distances):
    """L2 distances of pairs, in float64; see `measure_cosine`."""
    for pair in range(len(left)):
        one, two = targets[left[pair]], sources[right[pair]]
        total = 0.0
        for axis in range(len(one)):
            difference = np.float64(one[axis]) - np.float64(two[axis])
            total += difference * difference
        distances[pair] = np.sqrt(total)


@_compiled(fastmath=_SUMS)
def measure_manhattan(targets, sources, left, right, distances):
    """L1 distances of pairs, in float64; see `measure_cosine`."""
    for pair in range(len(left)):
        one, two = targets[left[pair]], sources[right[pair]]
        total = 0.0
        for axis in range(len(one)):
            total += abs(np.float64(one[axis]) - np.float64(two[axis]))
        distances[pair] = total


@_compiled(fastmath=_SUMS)
def measure_inner_product(targets, sources, left, right, distances):
    """Negative inner products of pairs, in float64; see `measure_cosine`."""
    for pair in range(len(left)):
        one, two = targets[left[pair]], sources[right[pair]]
        total = 0.0
        for axis in range(len(one)):
            total += np.float64(one[axis]) * np.float64(two[axis])
        distances[pair] = -total
