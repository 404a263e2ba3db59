"""What all kinds of changes have in common: a difference of a weight, held in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from afstream.errors import CheckpointError
from afstream.validation import show_name

MATRIX_DIMS = 2


class Source(NamedTuple):
    """Where parts were read, for errors: a file, and a layer of the model."""

    path: Path
    layer: str

    def fault(self, what: str, way_out: str) -> CheckpointError:
        """An error on parts of this layer: what the file has, and what to do."""
        return CheckpointError(f"{self.path} has {what} for {show_name(self.layer)}{way_out}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A difference of one weight, of strength 1.

    Attributes:
        kind: in words.
        parts: what its file holds of it, by their names in `names.WORDS`.
    """

    kind: ClassVar[str]
    parts: Mapping[str, Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        raise NotImplementedError

    @property
    def rank(self) -> int | None:
        """By which alpha is divided; None where there is none, and alpha does not count."""
        return None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it changes a weight of a shape."""
        return self.shape == tuple(shape)

    def values(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The difference, in as many values as the weight has, of parts in the weight's dtype."""
        raise NotImplementedError

    def added(self, weight: Tensor, factor: float) -> Tensor:
        """A weight and the difference times a factor, in the weight's dtype and place."""
        values = self.values(self.parts_like(weight))
        return torch.add(weight, values.reshape(weight.shape), alpha=factor)

    def parts_like(self, weight: Tensor) -> dict[str, Tensor]:
        """The parts in a weight's dtype and place."""
        return {name: part.to(weight.device, weight.dtype) for name, part in self.parts.items()}


class FlatDelta(Delta):
    """A difference whose rows may be flat where the weight is a convolution's."""

    __slots__ = ()

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it changes a weight of a shape, whole or with flat rows."""
        flat = (shape[0], math.prod(shape[1:])) if shape else ()
        return self.shape in (tuple(shape), flat)


def check_matrices(parts: Mapping[str, Tensor], source: Source) -> None:
    """See that parts are matrices or convolutions, with something in them.

    Raises:
        CheckpointError: they are not.
    """
    shown = shapes_of(parts)
    if any(part.ndim < MATRIX_DIMS for part in parts.values()):
        raise source.fault(f"vectors {shown}", ", which are no matrices; give a whole LoRA")
    if not all(part.numel() for part in parts.values()):
        raise source.fault(
            f"matrices {shown}", ", which add nothing; give a LoRA of rank 1 or more"
        )


def unmultiplied(parts: Mapping[str, Tensor], source: Source) -> CheckpointError:
    """An error on parts whose shapes do not go together."""
    return source.fault(
        f"matrices {shapes_of(parts)}", ", which cannot be multiplied; give a whole LoRA"
    )


def shapes_of(parts: Mapping[str, Tensor]) -> str:
    """The parts' shapes in words."""
    return " and ".join(str(tuple(part.shape)) for part in parts.values())


def tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Core [i, j, ...], left [i, out], right [j, in] -> [out, in, ...]."""
    return torch.einsum("ij...,io,jn->on...", core, left, right)


def is_tucker(core: Tensor, left: Tensor, right: Tensor) -> bool:
    """Whether three parts go together so."""
    return left.ndim == right.ndim == MATRIX_DIMS and core.shape[:MATRIX_DIMS] == (
        left.shape[0],
        right.shape[0],
    )


def is_product(left: Tensor, right: Tensor) -> bool:
    """Whether two parts are matrices that can be multiplied."""
    return left.ndim == right.ndim == MATRIX_DIMS and left.shape[1] == right.shape[0]
