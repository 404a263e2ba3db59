"""LoRA: pairs of thin matrices and differences, added to the weights once, when a model is loaded.

Names and strengths are read as their trainers write them; see `lora_names` and `lora_strength`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afstream.checkpoints.files import Weights, shapes_of
from afstream.checkpoints.lora_file import (
    WANTED,
    LoraFile,
    is_lora,
    is_lora_folder,
    lora_path,
    read_lora_file,
)
from afstream.checkpoints.lora_settings import ADAPTER_CONFIG
from afstream.checkpoints.lora_strength import Layer, Strength, resolve
from afstream.errors import CheckpointError, ConfigError
from afstream.spec import split_scale
from afstream.validation import show_name

__all__ = [
    "Addition",
    "Lora",
    "is_lora",
    "is_lora_folder",
    "merge_loras",
    "read_lora",
    "read_loras",
]

MATRIX_DIMS = 2
LARGEST = torch.finfo(torch.float32).max


class Addition(NamedTuple):
    """What is added to one weight: factor * up @ down, or factor * up where there is no down.

    A pair is [out, rank] and [rank, in], for a convolution [out, rank, 1, 1, 1] and
    [rank, in, f, h, w].
    """

    up: Tensor
    down: Tensor | None
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes; two axes may stand for more."""
        if self.down is None:
            return tuple(self.up.shape)
        return self.up.shape[0], *self.down.shape[1:]

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it can be added to a weight of a shape.

        A pair of two axes fits a convolution by the values of a row.
        """
        flat = (*shape[:1], math.prod(shape[1:]))
        return self.shape in (tuple(shape), flat if self.down is not None else ())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What its file holds of it."""
        return (self.up,) if self.down is None else (self.down, self.up)

    def added(self, weight: Tensor, scale: float) -> Tensor:
        """A weight with it, in the weight's own dtype and place."""
        up = self.up.to(weight.device, weight.dtype)
        if self.down is None:
            return torch.add(weight, up, alpha=scale * self.factor)
        down = self.down.to(weight.device, weight.dtype)
        flat = torch.addmm(
            weight.flatten(1), up.flatten(1), down.flatten(1), alpha=scale * self.factor
        )
        return flat.view_as(weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One LoRA file.

    Attributes:
        scale: how much of it is added; 1 is all.
        additions: by the name of the weight.
        strengths: of the pairs, by the same name.
    """

    path: Path
    scale: float
    additions: Mapping[str, Sequence[Addition]]
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

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that the file adds, with the name of the weight."""
        for name, additions in self.additions.items():
            for one in additions:
                for tensor in one.tensors:
                    yield name, tensor

    def misfit(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Why it does not fit weights of these shapes, by their names in Wan; empty where it does.

        Names the first weight that is not there, or of another shape.
        """
        for name, additions in sorted(self.additions.items()):
            for one in additions:
                if name not in shapes:
                    wrong = f"{show_name(name)} {one.shape}, which the model does not have"
                elif not one.fits(shapes[name]):
                    has = tuple(shapes[name])
                    wrong = f"{show_name(name)} as {one.shape}, but the model has {has}"
                else:
                    continue
                return (
                    f"LoRA {self.path} is for another base: it changes {wrong}; give a LoRA of"
                    " this model"
                )
        return ""

    def check(self, weights: Weights) -> None:
        """Raise `CheckpointError` unless every addition has a weight of its shape; see `misfit`."""
        if misfit := self.misfit(shapes_of(weights)):
            raise CheckpointError(misfit)

    def added(self, name: str, weight: Tensor) -> Tensor:
        """A weight with what is added, in float32 or better; as it is when nothing is."""
        for one in self.additions.get(name, ()):
            # in what the file holds or better, so that bfloat16 and float8 round only once
            wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
            weight = one.added(weight.to(wide), self.scale)
        return weight


def merge_loras(weights: Weights, loras: Sequence[Lora]) -> Weights:
    """Weights with all of them added.

    Raises:
        CheckpointError: one is for another base.
    """
    for lora in loras:
        lora.check(weights)
    return {name: with_added(loras, name, value) for name, value in weights.items()}


def with_added(loras: Sequence[Lora], name: str, weight: Tensor) -> Tensor:
    """A weight with what several add to it, in their order; see `Lora.added`."""
    for lora in loras:
        weight = lora.added(name, weight)
    return weight


def read_loras(given: Sequence[str]) -> list[Lora]:
    """Read several, each `FILE` or `FILE:SCALE`; see `read_lora`."""
    return [_read_given(one) for one in given]


def _read_given(given: str) -> Lora:
    path, scale = split_scale(given)
    before, colon, said = given.rpartition(":")
    # os.path, because a path that no system takes is told of where it is read
    if colon and path == Path(given) and not os.path.exists(given) and os.path.exists(before):  # noqa: PTH110
        raise ConfigError(f"the scale of LoRA {before} is {said!r}; give a number, such as 0.8")
    return read_lora(path, scale=scale)


def read_lora(path: Path, *, scale: float = 1.0, alpha: float | None = None) -> Lora:
    """Read a LoRA: a file, or the folder in which PEFT or diffusers saved one.

    Where nothing says an alpha, and none is given, it is the rank.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or no LoRA; or its strength is not
            clear.
        ConfigError: the scale is no finite number.
    """
    if not math.isfinite(scale):
        raise ConfigError(f"the scale of LoRA {path} is {scale}; give a number, such as 0.8")
    return lora_of(read_lora_file(lora_path(path)), scale=scale, alpha=alpha)


def lora_of(file: LoraFile, *, scale: float = 1.0, alpha: float | None = None) -> Lora:
    """A LoRA of a file's content; raises what `read_lora` raises."""
    additions, layers = _bare(file)
    if not additions:
        raise CheckpointError(
            f"{file.path} holds no LoRA weights; give {WANTED}, or use it as the student"
        )
    strengths = _strengths(file, layers, alpha)
    # a bias counts as the pair that it belongs to
    factors = {name: one.factor for name, one in strengths.items()}
    factors |= {_bias_of(name): factor for name, factor in factors.items()}
    for name, factor in {**factors, "": 1.0}.items():
        if not abs(scale * factor) <= LARGEST:
            raise ConfigError(
                f"the scale of LoRA {file.path} is {scale:g}{', times ' if name else ''}"
                f"{f'{factor:g} by its alpha' if name else ''}, more than float32 holds; give a"
                " number, such as 0.8"
            )
    return Lora(
        path=file.path,
        scale=scale,
        additions={
            name: [
                one._replace(factor=factors[name]) if is_scaled else one for one, is_scaled in found
            ]
            for name, found in additions.items()
        },
        strengths=strengths,
    )


def _strengths(
    file: LoraFile, layers: Mapping[str, Layer], alpha: float | None
) -> dict[str, Strength]:
    strengths = resolve(layers, file.settings, file.path, otherwise=alpha)
    if file.beside:
        both = resolve(layers, [*file.settings, *file.beside], file.path, otherwise=alpha)
        for name, one in strengths.items():
            if not math.isclose(both[name].factor, one.factor):
                raise CheckpointError(
                    f"{file.path} merges {name} at {one.factor:g}, but {ADAPTER_CONFIG} beside it"
                    f" says {both[name].factor:g}; name the file adapter_model{file.path.suffix}"
                    " if that is its own, else move it to another folder"
                )
    return strengths


def _bias_of(name: str) -> str:
    return f"{name.removesuffix('.weight')}.bias"


def _bare(
    file: LoraFile,
) -> tuple[dict[str, list[tuple[Addition, bool]]], dict[str, Layer]]:
    """What is added, without factors, and whether it counts by its layer's; layers with a pair."""
    path = file.path
    found = dict[str, list[tuple[Addition, bool]]]()
    layers = dict[str, Layer]()
    for (name, part), value in file.parts.items():
        layer = name.removesuffix(".weight")
        if part in ("down", "up"):
            if name not in layers:
                down, up = file.parts.get((name, "down")), file.parts.get((name, "up"))
                down, up = _checked(path, layer, down, up)
                layers[name] = Layer(file.spelled[name], down.shape[0], file.alphas.get(name))
                found.setdefault(name, []).append((Addition(up, down), True))
        else:
            found.setdefault(name, []).append((Addition(value, None), part == "bias"))
    for name in [*file.alphas, *(name for name, part in file.parts if part == "bias")]:
        owner = f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name
        if owner not in layers:
            what = "an alpha" if owner == name else "a bias of a pair"
            raise CheckpointError(
                f"{path} has {what} for {owner.removesuffix('.weight')}, and no pair of matrices;"
                " give a whole LoRA"
            )
    return found, layers


def _checked(
    path: Path, layer: str, down: Tensor | None, up: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both halves of a pair that can be multiplied."""
    if down is None or up is None or down.ndim < MATRIX_DIMS or up.ndim < MATRIX_DIMS:
        raise CheckpointError(
            f"{path} has no complete pair of matrices for {show_name(layer)}; give a whole LoRA"
        )
    shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
    if not down.numel() or not up.numel():
        raise CheckpointError(
            f"{path} has matrices {shapes} for {show_name(layer)}, which add nothing; give a LoRA"
            " of rank 1 or more"
        )
    if down.shape[0] != up.shape[1] or up[0, 0].numel() > 1 or down.ndim != up.ndim:
        raise CheckpointError(
            f"{path} has matrices {shapes} for {show_name(layer)}, which cannot be multiplied;"
            " give a whole LoRA"
        )
    return down, up
