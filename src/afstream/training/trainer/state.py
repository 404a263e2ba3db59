"""The state of a trainer, as it stands in a checkpoint: tensors by name, and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from afstream.errors import CheckpointError
from afstream.training.trainer.manifest import Manifest

# what `Trainer.state` gives: tensors within mappings, and numbers
State = Mapping[str, Any]


def divided(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors, alone or within mappings, and plain values: what JSON holds exactly."""
    tensors = {name: value for name, value in state.items() if flat(value)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def flat(value: object, name: str = "") -> dict[str, Tensor]:
    """Tensors within mappings, by the name that they have in a checkpoint."""
    if isinstance(value, Tensor):
        return {name: value}
    found: dict[str, Tensor] = {}
    for key, part in value.items() if isinstance(value, Mapping) else ():
        found |= flat(part, f"{name}.{key}" if name else str(key))
    return found


def check_same(folder: Path, manifest: Manifest, tensors: State, plain: State) -> None:
    """See that a checkpoint holds what is wanted.

    Raises:
        CheckpointError: its tensors differ in name or shape, or it lacks a plain value.
    """
    saved = {name: each.size for name, each in manifest.tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in flat(tensors).items()}
    differing = sorted(saved.keys() ^ wanted.keys())
    differing += sorted(name for name in wanted.keys() & saved if saved[name] != wanted[name])
    differing += sorted(plain.keys() - manifest.plain.keys())
    if differing:
        raise CheckpointError(
            f"checkpoint {folder} is of another run: {len(differing)} of its weights differ in name"
            f" or shape, for example {differing[0]}; resume with the same settings, or begin in"
            " another folder"
        )
