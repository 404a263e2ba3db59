"""LoRA's own kind of change: a product of two thin matrices, or of three."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from afstream.checkpoints.lora.delta import (
    Delta,
    Source,
    check_matrices,
    tucker,
    unmultiplied,
)


class Pair(Delta):
    """up @ down: [out, rank] and [rank, in].

    For a convolution [out, rank, 1, 1, 1] and [rank, in, f, h, w]. In Tucker's form of one, `mid`
    [rank, rank, f, h, w] stands between them, and down is [rank, in, 1, 1, 1].
    """

    __slots__ = ()
    kind = "LoRA"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        inner = self.parts.get("mid", self.parts["down"])
        return self.parts["up"].shape[0], self.parts["down"].shape[1], *inner.shape[2:]

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return self.parts["down"].shape[0]

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it changes a weight of a shape; two axes fit a convolution, row by row."""
        flat = (*shape[:1], math.prod(shape[1:]))
        return self.shape == tuple(shape) or (self.shape == flat and "mid" not in self.parts)

    def values(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The product."""
        up, down = parts["up"].flatten(1), parts["down"].flatten(1)
        return tucker(parts["mid"], up.T, down) if "mid" in parts else up @ down

    def added(self, weight: Tensor, factor: float) -> Tensor:
        """A weight and the product times a factor, without room for the product by itself."""
        if "mid" in self.parts:
            # super() needs a cell that dataclasses with slots do not have
            return Delta.added(self, weight, factor)
        parts = self.parts_like(weight)
        flat = torch.addmm(
            weight.flatten(1), parts["up"].flatten(1), parts["down"].flatten(1), alpha=factor
        )
        return flat.view_as(weight)


def pair(parts: Mapping[str, Tensor], source: Source) -> Pair:
    """A pair of its parts.

    Raises:
        CheckpointError: one is missing, or they cannot be multiplied.
    """
    down, up, mid = parts.get("down"), parts.get("up"), parts.get("mid")
    if down is None or up is None or down.ndim < 2 or up.ndim < 2:  # noqa: PLR2004  a matrix
        raise source.fault("no complete pair of matrices", "; give a whole LoRA")
    check_matrices(parts, source)
    is_pair = down.shape[0] == up.shape[1] and up[0, 0].numel() == 1 and down.ndim == up.ndim
    if mid is not None:
        is_pair &= mid.ndim == down.ndim and down[0, 0].numel() == 1
        is_pair &= tuple(mid.shape[:2]) == (down.shape[0], down.shape[0])
    if not is_pair:
        raise unmultiplied(parts, source)
    return Pair(parts=parts)
