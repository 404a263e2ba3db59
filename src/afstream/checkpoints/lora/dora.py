"""DoRA: what a change gives is brought to a length of its own, row by row or column by column.

The rule is that of Liu et al. (arXiv:2402.09353): magnitude * (W + delta) / |W + delta|.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from afstream.checkpoints.lora.delta import Delta, Source

MATRIX_DIMS = 2


class Dora(NamedTuple):
    """The lengths that a changed weight gets.

    Attributes:
        magnitude: one value for each row or column.
        axis: of the weight, 0 for rows and 1 for columns.
        is_peft: whether it is PEFT's, in which a scale counts within the norm; in LyCORIS it leads
            from the weight to the changed one.
    """

    magnitude: Tensor
    axis: int
    is_peft: bool

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a weight of a shape has as many rows or columns."""
        return len(shape) > self.axis and shape[self.axis] == self.magnitude.numel()

    def added(self, delta: Delta, weight: Tensor, factor: float, scale: float) -> Tensor:
        """A weight with a difference times a factor, at a scale."""
        changed = delta.added(weight, factor * scale if self.is_peft else factor)
        axes = [axis for axis in range(weight.ndim) if axis != self.axis]
        length = torch.linalg.vector_norm(changed, dim=axes, keepdim=True)
        wanted = self.magnitude.to(weight.device, weight.dtype).reshape(length.shape)
        # a row of zeros has no direction, and stays one
        changed = changed * torch.where(length > 0, wanted / length, 0)
        return changed if self.is_peft or scale == 1 else torch.lerp(weight, changed, scale)


def dora_of(magnitude: Tensor, shape: Sequence[int], source: Source, *, is_peft: bool) -> Dora:
    """Lengths by what a file holds for a weight of a shape, [out, in, ...].

    PEFT's are of rows. LyCORIS' are [out, 1, ...] of rows, or [1, in, ...] of columns, by how it
    was trained; without axes, they are of what there are as many of.

    Raises:
        CheckpointError: they are neither, or may be both.
    """
    rows, columns = shape[0], shape[1]
    given = tuple(magnitude.shape)
    is_row = given == (rows, *[1] * (len(given) - 1))
    is_column = len(given) > 1 and given == (1, columns, *[1] * (len(given) - MATRIX_DIMS))
    if is_peft and magnitude.numel() == rows and rows in given:
        return Dora(magnitude, 0, True)
    if not is_peft and len(given) == 1 and (rows in given or columns in given):
        if rows == columns:
            raise source.fault(
                f"DoRA's lengths {given}",
                ", which may be of its rows or of its columns; give a LoRA whose dora_scale is"
                f" ({rows}, 1) or (1, {rows})",
            )
        return Dora(magnitude, int(given[0] == columns), False)
    if not is_peft and (is_row or is_column):
        return Dora(magnitude, int(not is_row), False)
    raise source.fault(
        f"DoRA's lengths {given}", f", a weight of {tuple(shape)}; give a LoRA of this model"
    )
