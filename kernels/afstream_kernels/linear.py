"""A linear map whose results go straight into slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op


def linear_write(
    x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]
) -> None:
    """Apply a linear map and write its results into slots, one after the other; no gradients.

    Args:
        x: [B, len(slots) * R, C].
        weight: [C, C]; bias [C].
        bias: see weight.
        values: [B, N, R, H, D] contiguous, changed in place; C = H * D.
        slots: the slot into which each R rows are written.
    """
    if torch.compiler.is_compiling():
        # torch.compile makes a new tensor of what is written through `out`, and copies that
        _linear_write(x, weight, bias, values, slots)
    else:
        _write(x, weight, bias, values, slots)


def _write(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]) -> None:
    for part, slot in zip(x.split(values.shape[2], dim=1), slots, strict=True):
        for rows, out in zip(part, values[:, slot].flatten(2), strict=True):
            torch.addmm(bias, rows, weight.t(), out=out)


@custom_op("afstream::linear_write", mutates_args={"values"})
def _linear_write(
    x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]
) -> None:
    _write(x, weight, bias, values, slots)


@_linear_write.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]) -> None:
    del x, weight, bias, values, slots
