"""LoRA: pairs of thin matrices, added to the weights once, when a model is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from afstream.checkpoints.names import wan_name
from afstream.checkpoints.weights import Weights, read_metadata, read_weights
from afstream.errors import CheckpointError
from afstream.spec import split_scale

ENTRY = "generator_lora"
ALPHA = "lora_alpha"
# PEFT's own settings as diffusers writes them, JSON
ADAPTER = "lora_adapter_metadata"
# PEFT's words for the two, and kohya's
DOWN, UP = ("lora_A", "lora_down"), ("lora_B", "lora_up")
MATRIX = re.compile(rf"(.+)\.({'|'.join((*DOWN, *UP))})(?:\.default)?\.weight")
OWN_ALPHA = ".alpha"
MATRIX_DIMS = 2

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
        scale: how much of it is wanted; 1 is all.
        pairs: by the name of the layer, without `.weight`.
        alpha_from: what says the pairs' alpha.
    """

    path: Path
    scale: float
    pairs: Mapping[str, Pair]
    alpha_from: AlphaFrom = "rank"

    def describe(self) -> str:
        """The file's name and scale."""
        return f"{self.path.name}:{self.scale:g}"

    def check(self, weights: Weights) -> None:
        """See that every pair has a weight of its shape to go to; see `check_layers`."""
        layers = {layer: pair.shape for layer, pair in self.pairs.items()}
        check_layers(self.path, layers, {name: value.shape for name, value in weights.items()})

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


def check_layers(
    path: Path, layers: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]
) -> None:
    """See that a model has every weight that a LoRA changes.

    Args:
        path: the LoRA's file.
        layers: the shape of each weight that it changes, by its name without `.weight`.
        shapes: of the model's weights, by their names in Wan.

    Raises:
        CheckpointError: names the first that does not fit.
    """
    for layer, size in sorted(layers.items()):
        name, shape = f"{layer}.weight", tuple(size)
        if name not in shapes:
            raise CheckpointError(
                f"LoRA {path} is for another base: it changes {name} {shape}, which the model does"
                " not have; give a LoRA of this model"
            )
        if shape != tuple(shapes[name]):
            raise CheckpointError(
                f"LoRA {path} is for another base: it changes {name} as {shape}, but the model has"
                f" {tuple(shapes[name])}; give a LoRA of this model"
            )


def is_lora_name(name: str) -> bool:
    """Whether a weight of this name is half of a pair."""
    return MATRIX.fullmatch(name) is not None


def read_loras(given: Sequence[str]) -> list[Lora]:
    """Read several, each `FILE` or `FILE:SCALE`.

    Raises:
        CheckpointError: see `read_lora`.
    """
    return [read_lora(path, scale=scale) for path, scale in map(split_scale, given)]


def read_lora(path: Path, *, scale: float = 1.0, alpha: float | None = None) -> Lora:
    """Read a LoRA file: PEFT's names or kohya's, on Wan's modules or diffusers'.

    Args:
        path: pairs directly, or a dict that has them under `generator_lora`.
        scale: how much of it is wanted.
        alpha: where the file names none; without it the rank.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or no LoRA.
    """
    content = read_weights(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; a LoRA holds named weights")
    metadata = {**read_metadata(path), **_numbers(content)}
    entries = content.get(ENTRY, content)
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{path} holds {type(entries).__name__} as its LoRA; give a LoRA file"
        )
    matrices = {
        wan_name(str(name)): value for name, value in entries.items() if isinstance(value, Tensor)
    }
    said = _alpha(metadata, alpha)
    pairs = dict(_pairs(matrices, path, said))
    if not pairs:
        raise CheckpointError(
            f"{path} holds no LoRA weights (names with lora_A and lora_B, or lora_down and"
            " lora_up); give a LoRA file, or use it as the student"
        )
    own = any(name.endswith(OWN_ALPHA) for name in matrices)
    alpha_from: AlphaFrom = "layers" if own else "rank" if said is None else "file"
    return Lora(path=path, scale=scale, pairs=pairs, alpha_from=alpha_from)


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


def _pairs(matrices: Weights, path: Path, alpha: float | None) -> Iterator[tuple[str, Pair]]:
    halves: dict[str, dict[bool, Tensor]] = {}
    for name, value in matrices.items():
        found = MATRIX.fullmatch(name)
        if found:
            halves.setdefault(found[1], {})[found[2] in UP] = value
        elif not name.endswith(OWN_ALPHA):
            raise CheckpointError(
                f"{path} holds {name}, which is no part of a low-rank pair; give a file of pairs"
                " (lora_A and lora_B, or lora_down and lora_up)"
            )
    for layer, pair in halves.items():
        down, up = pair.get(False), pair.get(True)
        if down is None or up is None or down.ndim != MATRIX_DIMS or up.ndim != MATRIX_DIMS:
            raise CheckpointError(f"{path} has no complete pair of matrices for {layer}")
        if down.shape[0] != up.shape[1]:
            raise CheckpointError(
                f"{path} has matrices {tuple(down.shape)} and {tuple(up.shape)} for {layer}, which"
                " cannot be multiplied"
            )
        own = matrices.get(layer + OWN_ALPHA)
        rank = float(down.shape[0])
        yield layer, Pair(down, up, own.item() if own is not None else alpha or rank)


def _numbers(content: Mapping[Any, Any]) -> dict[str, Any]:
    """What a `.pt` file says beside its tensors."""
    return {str(name): value for name, value in content.items() if isinstance(value, int | float)}


def _alpha(metadata: Mapping[str, Any], otherwise: float | None) -> float | None:
    try:
        adapter = json.loads(metadata.get(ADAPTER, "{}"))
        nested = [value for name, value in adapter.items() if name.split(".")[-1] == ALPHA]
        found = metadata.get(ALPHA, nested[0] if nested else otherwise)
        return None if found is None else float(found)
    except (ValueError, TypeError, AttributeError):
        return otherwise
