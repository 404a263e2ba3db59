"""Regions of pictures: flooding, local sums, local extremes. All work on [N, H, W]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def flood(seeds: Mask, free: Mask) -> Mask:
    """Pixels of `free` that are joined to a seed by steps up, down, left and right."""
    rows = _Lines(free)
    columns = _Lines(free.swapaxes(1, 2))
    reached, size = seeds & free, 0
    while (grown := int(reached.sum())) > size:
        size = grown
        reached = rows.run(reached)
        reached = columns.run(reached.swapaxes(1, 2)).swapaxes(1, 2)
    return reached


class _Lines:
    """Rows of free pixels, and how far one can run along them from any pixel."""

    def __init__(self, free: Mask) -> None:
        self._free = np.ascontiguousarray(free)
        self._place = np.arange(free.shape[2], dtype=np.int8)
        self._wall_before = _latest(~self._free, self._place)
        self._wall_behind = _latest(~self._free[:, :, ::-1], self._place)

    def run(self, reached: Mask) -> Mask:
        """Go on from `reached` to both sides until something stands in the way."""
        before = _latest(reached, self._place) > self._wall_before
        behind = _latest(reached[:, :, ::-1], self._place) > self._wall_behind
        return (before | behind[:, :, ::-1]) & self._free


def _latest(marked: Mask, place: NDArray[np.int8]) -> NDArray[np.int8]:
    """For every pixel the last marked place in its row up to there, -1 where there is none."""
    return np.maximum.accumulate(np.where(marked, place, np.int8(-1)), axis=2)


def fill_holes(mask: Mask, walls: Mask) -> Mask:
    """The mask and all that it, together with `walls`, cuts off from the picture's edge."""
    border = np.zeros_like(mask)
    border[:, [0, -1], :] = True
    border[:, :, [0, -1]] = True
    closed = mask | walls
    # the edge itself stays open, so that a body that touches it is not spilled into
    return ~flood(border, ~closed)


def local_sum(values: Array, reach: int) -> Array:
    """Sums over squares of 2 * reach + 1 pixels; outside the picture counts as zero."""
    side = 2 * reach + 1
    padded = np.pad(values, ((0, 0), (reach + 1, reach), (reach + 1, reach)))
    total = padded.cumsum(axis=1).cumsum(axis=2)
    rows = total[:, side:] - total[:, :-side]
    return rows[:, :, side:] - rows[:, :, :-side]


def local_range(values: Array, reach: int) -> tuple[Array, Array]:
    """Smallest and largest value within `reach` pixels along both axes."""
    low, high = values, values
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        low = _extreme(np.pad(low, pad, mode="edge"), axis, 2 * reach + 1, np.minimum)
        high = _extreme(np.pad(high, pad, mode="edge"), axis, 2 * reach + 1, np.maximum)
    return low, high


def _extreme(padded: Array, axis: int, window: int, pick: np.ufunc) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(padded, window, axis=axis)
    return pick.reduce(windows, axis=-1)
