"""Reading a LoRA: what its file holds, made into changes of weights with their strengths."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from afstream.checkpoints.lora.delta import Source
from afstream.checkpoints.lora.file import WANTED, LoraFile, lora_path, read_lora_file
from afstream.checkpoints.lora.kinds import Change, changes_of
from afstream.checkpoints.lora.merge import Lora
from afstream.checkpoints.lora.settings import ADAPTER_CONFIG
from afstream.checkpoints.lora.strength import Layer, Strength, resolve
from afstream.errors import CheckpointError, ConfigError
from afstream.spec import split_scale

LARGEST = torch.finfo(torch.float32).max


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
    bare = {
        name: changes_of(parts, Source(file.path, name.removesuffix(".weight")))
        for name, parts in file.parts.items()
    }
    if not bare:
        raise CheckpointError(
            f"{file.path} holds no LoRA weights; give {WANTED}, or use it as the student"
        )
    _check_dora(file, bare)
    strengths = _strengths(file, _layers(file, bare), alpha)
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
        changes={
            name: [one._replace(factor=factors[name]) if one.is_scaled else one for one in changes]
            for name, changes in bare.items()
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


def _layers(file: LoraFile, bare: Mapping[str, Sequence[Change]]) -> dict[str, Layer]:
    """Layers with matrices, by their weights; an alpha or a bias of another is an error."""
    layers = {
        name: Layer(file.spelled[name], one.delta.rank, file.alphas.get(name))
        for name, changes in bare.items()
        for one in changes
        if one.is_scaled and name.endswith(".weight")
    }
    for name in [*file.alphas, *(name for name, parts in file.parts.items() if "bias" in parts)]:
        owner = f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name
        if owner not in layers:
            what = "an alpha" if owner == name else "a bias of a pair"
            raise CheckpointError(
                f"{file.path} has {what} for {owner.removesuffix('.weight')}, and no pair of"
                " matrices; give a whole LoRA"
            )
    return layers


def _check_dora(file: LoraFile, bare: Mapping[str, Sequence[Change]]) -> None:
    """See that a LoRA that calls itself a DoRA has lengths for every pair."""
    said = [one for place in (*file.settings, *file.beside) for one in place.is_dora if one.value]
    for name, changes in bare.items():
        if said and any(one.is_scaled and one.dora is None for one in changes):
            layer = name.removesuffix(".weight")
            raise CheckpointError(
                f"{file.path} is a DoRA, by {said[0].where}, but has no lengths for {layer}; give a"
                " whole DoRA"
            )
