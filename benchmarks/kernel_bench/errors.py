"""How far outputs are from what they should be."""

from __future__ import annotations

import math

from torch import Tensor

from kernel_bench.case import Outputs

# Compared at a time, so that gigabytes of keys do not become four times as many in float64.
ROWS_AT_ONCE = 2**18


def worst_error(found: Outputs, expected: Outputs) -> float:
    """The largest error of any row, relative to the root mean square of its tensor's rows.

    Rows are the last dimension: one head of one token. A single wrong row shows in it as much
    as a whole wrong tensor. Infinite where a value is not finite or a shape is another.
    """
    if len(found) != len(expected):
        return math.inf
    return max(_worst_row(*pair) for pair in zip(found, expected, strict=True))


def _worst_row(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    worst, squares, rows = 0.0, 0.0, 0
    for mine, twin in _parts(found.detach(), expected.detach()):
        exact = twin.double()
        error = (mine.double() - exact).norm(dim=-1).max().item()
        if not math.isfinite(error):
            return math.inf
        worst = max(worst, error)
        squares += exact.square().sum().item()
        rows += exact[..., 0].numel()
    scale = math.sqrt(squares / rows)
    return worst / scale if scale else (math.inf if worst else 0.0)


def _parts(found: Tensor, expected: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Both cut along leading dimensions: a strided buffer cannot be flattened without a copy."""
    rows = found[..., 0].numel()
    if rows <= ROWS_AT_ONCE:
        return [(found, expected)]
    if len(found) == 1:
        return _parts(found[0], expected[0])
    block = max(ROWS_AT_ONCE * len(found) // rows, 1)
    pairs = zip(found.split(block), expected.split(block), strict=True)
    return [part for pair in pairs for part in _parts(*pair)]
