"""A LoRA as it was read, and weights with several of them merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from afstream.checkpoints.files import Weights, shapes_of
from afstream.checkpoints.lora.kinds import Change
from afstream.checkpoints.lora.strength import Strength
from afstream.errors import CheckpointError
from afstream.validation import show_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One LoRA file.

    Attributes:
        scale: how much of it is added; 1 is all.
        changes: by the name of the weight.
        strengths: of those that have an alpha, by the same name.
    """

    path: Path
    scale: float
    changes: Mapping[str, Sequence[Change]]
    strengths: Mapping[str, Strength] = field(default_factory=dict[str, Strength])

    def describe(self) -> str:
        """The file's name and scale."""
        return f"{self.path.name}:{self.scale:g}"

    @property
    def strength_counts(self) -> dict[Strength, int]:
        """How many layers have each strength, the most frequent first."""
        return dict(Counter(self.strengths.values()).most_common())

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks that occur."""
        return tuple(sorted({one.rank for one in self.strengths.values()}))

    @property
    def kind_counts(self) -> dict[str, int]:
        """How many changes are of each kind, the most frequent first."""
        kinds = (one.kind for changes in self.changes.values() for one in changes)
        return dict(Counter(kinds).most_common())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that the file holds, with the name of the weight."""
        for name, changes in self.changes.items():
            for one in changes:
                for tensor in one.tensors:
                    yield name, tensor

    def misfit(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Why it does not fit weights of these shapes, by their names in Wan; empty where it does.

        Names the first weight that is not there, or of another shape.
        """
        for name, changes in sorted(self.changes.items()):
            for one in changes:
                given = one.delta.shape
                if name not in shapes:
                    wrong = f"{show_name(name)} {given}, which the model does not have"
                elif not one.fits(has := tuple(shapes[name])):
                    wrong = f"{show_name(name)} as {given}, but the model has {has}"
                else:
                    continue
                return (
                    f"LoRA {self.path} is for another base: it changes {wrong}; give a LoRA of"
                    " this model"
                )
        return ""

    def check(self, weights: Weights) -> None:
        """Raise `CheckpointError` unless every change has a weight of its shape; see `misfit`."""
        if misfit := self.misfit(shapes_of(weights)):
            raise CheckpointError(misfit)


def merged_weight(name: str, weight: Tensor, loras: Sequence[Lora]) -> Tensor:
    """A weight with all of them, in float32 or better; as it is when none changes it.

    Each changes the weight as it was given, a DoRA's norm too, and the differences are summed; so
    their order does not matter.
    """
    # in what the file holds or better, so that bfloat16 and float8 round only once
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    changes = [(one, lora.scale) for lora in loras for one in lora.changes.get(name, ())]
    if not changes:
        return weight
    base = merged = weight.to(wide)
    for one, scale in changes:
        merged = one.added(merged, base, scale)
    return merged


def merge_loras(weights: Weights, loras: Sequence[Lora]) -> Weights:
    """Weights with all of them; see `merged_weight`.

    Raises:
        CheckpointError: one is for another base.
    """
    for lora in loras:
        lora.check(weights)
    return {name: merged_weight(name, value, loras) for name, value in weights.items()}
