"""LoRA: pairs of thin matrices, added to the weights once, when a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from afstream.checkpoints.weights import Weights, shapes_of
from afstream.errors import CheckpointError

# each layer's own number, one for the whole file, or the rank where the file says nothing
AlphaFrom = Literal["layers", "file", "rank"]


class Pair(NamedTuple):
    """What is added to one weight: alpha / rank * up @ down.

    Attributes:
        down: [rank, in].
        up: [out, rank].
        alpha: the rank, unless the file says otherwise.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it belongs to."""
        return self.up.shape[0], self.down.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One LoRA file.

    Attributes:
        path: the file.
        scale: how much of it is added; 1 is all.
        pairs: by the name of the layer, without `.weight`.
        alpha_from: where the pairs' alpha comes from.
    """

    path: Path
    scale: float
    pairs: Mapping[str, Pair]
    alpha_from: AlphaFrom = "rank"

    def describe(self) -> str:
        """The file's name and scale."""
        return f"{self.path.name}:{self.scale:g}"

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight that it changes, by its name without `.weight`."""
        return {layer: pair.shape for layer, pair in self.pairs.items()}

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks that occur."""
        return tuple(sorted({pair.down.shape[0] for pair in self.pairs.values()}))

    @property
    def alphas(self) -> tuple[float, ...]:
        """All alphas that occur."""
        return tuple(sorted({pair.alpha for pair in self.pairs.values()}))

    def misfit(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Why it does not fit weights of these shapes, by their names in Wan; empty where it does.

        Names the first weight that is not there, or of another shape.
        """
        for layer, shape in sorted(self.layers.items()):
            name = f"{layer}.weight"
            if name not in shapes:
                wrong = f"{name} {shape}, which the model does not have"
            elif shape != tuple(shapes[name]):
                wrong = f"{name} as {shape}, but the model has {tuple(shapes[name])}"
            else:
                continue
            return (
                f"LoRA {self.path} is for another base: it changes {wrong}; give a LoRA of this"
                " model"
            )
        return ""

    def check(self, weights: Weights) -> None:
        """Check that every pair has a weight of its shape to go to.

        Raises:
            CheckpointError: see `misfit`.
        """
        if misfit := self.misfit(shapes_of(weights)):
            raise CheckpointError(misfit)

    def added(self, name: str, weight: Tensor) -> Tensor:
        """A weight with its pair, in float32 or better; as it is when there is no pair."""
        pair = self.pairs.get(name.removesuffix(".weight"))
        if pair is None:
            return weight
        # merged in what the file holds or better, so that bfloat16 rounds only once
        dtype = torch.promote_types(weight.dtype, torch.float32)
        down, up = (half.to(weight.device, dtype) for half in (pair.down, pair.up))
        factor = self.scale * pair.alpha / pair.down.shape[0]
        return torch.addmm(weight.to(dtype), up, down, alpha=factor)


def merge_loras(weights: Weights, loras: Sequence[Lora]) -> Weights:
    """Weights with all of them added.

    Raises:
        CheckpointError: one is for another base.
    """
    for lora in loras:
        lora.check(weights)
    merged = dict(weights)
    for lora in loras:
        merged = {name: lora.added(name, value) for name, value in merged.items()}
    return merged
