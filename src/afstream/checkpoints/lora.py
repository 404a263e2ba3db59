"""LoRA: pairs of thin matrices, added to the weights once, when a model is loaded.

Files have PEFT's names or kohya's, on Wan's modules or diffusers'.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from afstream.bounded import parse_json
from afstream.checkpoints.files import Weights, check_plain, read_metadata, read_weights, shapes_of
from afstream.checkpoints.names import wan_name
from afstream.errors import CheckpointError, ConfigError
from afstream.spec import split_scale
from afstream.validation import show_name, show_value

ENTRY = "generator_lora"
ALPHA = "lora_alpha"
# PEFT's own settings as diffusers writes them, JSON
ADAPTER = "lora_adapter_metadata"
# PEFT's words for the two halves of a pair, and kohya's
DOWN, UP = ("lora_A", "lora_down"), ("lora_B", "lora_up")
MATRIX = re.compile(rf"(.+)\.({'|'.join((*DOWN, *UP))})(?:\.default)?\.weight")
OWN_ALPHA = ".alpha"
MATRIX_DIMS = 2
# each layer's own number, one for the whole file, or the rank where the file says nothing
AlphaFrom = Literal["layers", "file", "rank"]


class Pair(NamedTuple):
    """What is added to one weight: alpha / rank * up [out, rank] @ down [rank, in]."""

    down: Tensor
    up: Tensor
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One LoRA file.

    Attributes:
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
        pairs = self.pairs.items()
        return {layer: (pair.up.shape[0], pair.down.shape[1]) for layer, pair in pairs}

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
                wrong = f"{show_name(name)} {shape}, which the model does not have"
            elif shape != tuple(shapes[name]):
                wrong = f"{show_name(name)} as {shape}, but the model has {tuple(shapes[name])}"
            else:
                continue
            return (
                f"LoRA {self.path} is for another base: it changes {wrong}; give a LoRA of this"
                " model"
            )
        return ""

    def check(self, weights: Weights) -> None:
        """Raise `CheckpointError` unless every pair has a weight of its shape; see `misfit`."""
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


def is_lora(content: Mapping[Any, Any]) -> bool:
    """Whether a file's content is a LoRA, by its names."""
    return ENTRY in content or any(MATRIX.fullmatch(str(name)) for name in content)


def read_loras(given: Sequence[str]) -> list[Lora]:
    """Read several, each `FILE` or `FILE:SCALE`; see `read_lora`."""
    return [read_lora(path, scale=scale) for path, scale in map(split_scale, given)]


def read_lora(path: Path, *, scale: float = 1.0, alpha: float | None = None) -> Lora:
    """Read a LoRA file: pairs directly, or a dict that has them under `generator_lora`.

    Where the file names no alpha, and none is given, it is the rank.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or no LoRA.
        ConfigError: the scale is no finite number.
    """
    if not math.isfinite(scale):
        raise ConfigError(f"the scale of LoRA {path} is {scale}; give a number, such as 0.8")
    content = read_weights(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; a LoRA holds named weights")
    entries = content.get(ENTRY, content)
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{path} holds {type(entries).__name__} as its LoRA; give a LoRA file"
        )
    matrices: Weights = {}
    for name, value in entries.items():
        if isinstance(value, Tensor):
            check_plain(str(name), value, path)
            matrices[wan_name(str(name))] = value
    said = _file_alpha({**read_metadata(path), **content}, path)
    said = alpha if said is None else said
    pairs = dict(_pairs(matrices, path, said))
    if not pairs:
        raise CheckpointError(
            f"{path} holds no LoRA weights (names with lora_A and lora_B, or lora_down and"
            " lora_up); give a LoRA file, or use it as the student"
        )
    own = any(name.endswith(OWN_ALPHA) for name in matrices)
    alpha_from: AlphaFrom = "layers" if own else "rank" if said is None else "file"
    return Lora(path=path, scale=scale, pairs=pairs, alpha_from=alpha_from)


def _pairs(matrices: Weights, path: Path, alpha: float | None) -> Iterator[tuple[str, Pair]]:
    halves: dict[str, dict[bool, Tensor]] = {}
    for name, value in matrices.items():
        found = MATRIX.fullmatch(name)
        if found:
            halves.setdefault(found[1], {})[found[2] in UP] = value
        elif not name.endswith(OWN_ALPHA):
            raise CheckpointError(
                f"{path} holds {show_name(name)}, which is no part of a low-rank pair; give a"
                " file of pairs (lora_A and lora_B, or lora_down and lora_up)"
            )
    for layer, pair in halves.items():
        down, up = pair.get(False), pair.get(True)
        if down is None or up is None or {down.ndim, up.ndim} != {MATRIX_DIMS}:
            raise CheckpointError(
                f"{path} has no complete pair of matrices for {show_name(layer)}; give a whole LoRA"
            )
        if not down.numel() or not up.numel():
            raise CheckpointError(
                f"{path} has matrices {tuple(down.shape)} and {tuple(up.shape)} for"
                f" {show_name(layer)}, which add nothing; give a LoRA of rank 1 or more"
            )
        if down.shape[0] != up.shape[1]:
            raise CheckpointError(
                f"{path} has matrices {tuple(down.shape)} and {tuple(up.shape)} for"
                f" {show_name(layer)}, which cannot be multiplied; give a whole LoRA"
            )
        own = matrices.get(layer + OWN_ALPHA)
        rank = float(down.shape[0])
        yield layer, Pair(down, up, alpha or rank if own is None else _number(own, path, layer))


def _file_alpha(said: Mapping[Any, Any], path: Path) -> float | None:
    """The alpha that a file says for all its pairs, beside its tensors or in its metadata."""
    if ALPHA in said:
        return _number(said[ALPHA], path, ALPHA)
    try:
        adapter = parse_json(said.get(ADAPTER, "{}"))
        found = [value for name, value in adapter.items() if name.split(".")[-1] == ALPHA]
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: {ADAPTER} is {show_value(said[ADAPTER])}; it must be JSON, settings by name"
        ) from error
    return _number(found[0], path, ALPHA) if found and found[0] is not None else None


def _number(value: Any, path: Path, name: str) -> float:  # noqa: ANN401  whatever a file holds
    """An alpha, as a number, a text or a tensor of one value."""
    try:
        number = float(value)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        shown = show_value(number)
        if isinstance(value, Tensor) and value.numel() != 1:
            shown = f"of shape {tuple(value.shape)}"
        raise CheckpointError(
            f"{path}: the alpha of {name} is {shown}; it must be a finite number, so give"
            " another LoRA"
        )
    return number
