"""LoKr: a Kronecker product of two small matrices, each whole or a product of two.

The rule is LyCORIS' (Yeh et al., arXiv:2309.14859), which PEFT follows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from afstream.checkpoints.lora.delta import (
    MATRIX_DIMS,
    FlatDelta,
    Source,
    check_matrices,
    is_product,
    is_tucker,
    tucker,
    unmultiplied,
)


class Kronecker(FlatDelta):
    """kron(w1, w2): [a, b] and [c, d, ...] change a weight of [a * c, b * d, ...].

    w1 is whole or w1_a @ w1_b; w2 is whole, w2_a @ w2_b, or t2 with w2_a [rank, c] and w2_b
    [rank, d] at its axes.
    """

    __slots__ = ()
    kind = "LoKr"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        with torch.device("meta"):
            meta = {name: torch.empty(part.shape) for name, part in self.parts.items()}
        return tuple(self.values(meta).shape)

    @property
    def rank(self) -> int | None:
        """Of the matrix that is a product; None where both are whole."""
        for name in ("lokr_w2_b", "lokr_w1_b"):
            if name in self.parts:
                return self.parts[name].shape[0]
        return None

    def values(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The product of [a, b] and [c, d, ...], [a * c, b * d, ...]."""
        first, second = _first(parts), _second(parts)
        first = first.reshape(*first.shape, *[1] * (second.ndim - MATRIX_DIMS))
        return torch.kron(first, second.contiguous())


def kronecker(parts: Mapping[str, Tensor], source: Source) -> Kronecker:
    """A Kronecker product of its parts.

    Raises:
        CheckpointError: one is missing or too many, or they cannot be multiplied.
    """
    first = {name.removeprefix("lokr_w1") for name in parts if name.startswith("lokr_w1")}
    second = {name.removeprefix("lokr_") for name in parts if not name.startswith("lokr_w1")}
    is_whole = first in ({""}, {"_a", "_b"})
    if not is_whole or second not in ({"w2"}, {"w2_a", "w2_b"}, {"t2", "w2_a", "w2_b"}):
        raise source.fault(
            f"LoKr matrices {', '.join(sorted(parts))}",
            ", which do not make a whole one; give a whole LoRA",
        )
    check_matrices(parts, source)
    is_fit = first == {"_a", "_b"} or parts["lokr_w1"].ndim == MATRIX_DIMS
    if first == {"_a", "_b"}:
        is_fit &= is_product(parts["lokr_w1_a"], parts["lokr_w1_b"])
    if "t2" in second:
        is_fit &= is_tucker(parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    elif "w2_a" in second:
        is_fit &= is_product(parts["lokr_w2_a"], parts["lokr_w2_b"])
    ranks = {part.shape[0] for name, part in parts.items() if name.endswith("_b")}
    if not is_fit or len(ranks) > 1:
        raise unmultiplied(parts, source)
    return Kronecker(parts=parts)


def _first(parts: Mapping[str, Tensor]) -> Tensor:
    whole = parts.get("lokr_w1")
    return parts["lokr_w1_a"] @ parts["lokr_w1_b"] if whole is None else whole


def _second(parts: Mapping[str, Tensor]) -> Tensor:
    whole = parts.get("lokr_w2")
    if whole is not None:
        return whole
    left, right = parts["lokr_w2_a"], parts["lokr_w2_b"]
    return tucker(parts["lokr_t2"], left, right) if "lokr_t2" in parts else left @ right
