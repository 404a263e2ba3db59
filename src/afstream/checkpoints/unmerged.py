"""Models that PEFT saved with a LoRA beside their weights, not merged yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afstream.checkpoints.files import Weights, plain_weights
from afstream.checkpoints.lora.file import add_settings_beside, gathered
from afstream.checkpoints.lora.merge import Lora, merged_weight
from afstream.checkpoints.lora.names import UNMERGED, other_kind, take_apart
from afstream.checkpoints.lora.read import lora_of
from afstream.checkpoints.lora.settings import ADAPTER_CONFIG, read_settings
from afstream.checkpoints.stored import form_of, parts_of, stored
from afstream.checkpoints.wrappers import in_wan_names, is_weights, unwrapped
from afstream.errors import CheckpointError


def is_unmerged(content: object) -> bool:
    """Whether a file's content, or a set of weights in it, is such a model, by its names."""
    if not isinstance(content, dict):
        return False
    sets = [content] if is_weights(content) else filter(is_weights, content.values())
    return any(UNMERGED in str(name) for one in sets for name in one)


def merged_weights(content: object, around: object, path: Path) -> Weights:
    """The weights of such a model under Wan's names, its LoRA added when they are used.

    `content` is the model, `around` all of its file, which may say the LoRA's alpha.

    Raises:
        CheckpointError: it is no whole model, its LoRA cannot be merged, or nothing says its alpha.
    """
    named = unwrapped(content, path)
    known: Mapping[Any, Any] = named if isinstance(named, dict) else {}
    pairs = {
        name: value
        for name, value in known.items()
        if take_apart(str(name)) or other_kind(str(name))
    }
    # numbers and texts among the weights are settings
    own = {
        str(name).replace(UNMERGED, "."): value
        for name, value in known.items()
        if name not in pairs and isinstance(value, Tensor)
    }
    file = gathered(pairs, path)
    file.settings += read_settings(around if isinstance(around, dict) else {}, "the file", path)
    add_settings_beside(file)
    # whatever the file is called, there is no other that it could belong to
    file.settings += file.beside
    file.beside.clear()
    lora = lora_of(file)
    if not all(strength.source for strength in lora.strengths.values()):
        raise CheckpointError(
            f"{path} holds a LoRA that is not merged yet, and nothing says its alpha; put PEFT's"
            f" {ADAPTER_CONFIG} with its lora_alpha beside the file"
        )
    weights = in_wan_names(plain_weights(own, path), path)
    lora.check(weights)
    return {name: _merged(lora, name, value) for name, value in weights.items()}


def _merged(lora: Lora, name: str, weight: Tensor) -> Tensor:
    if name not in lora.changes:
        return weight

    def restore(device: torch.device) -> Tensor:
        return merged_weight(name, weight.to(device), [lora])

    pairs = [part for one in lora.changes[name] for part in one.tensors]
    return stored(weight.shape, (*parts_of(weight), *pairs), restore, form=form_of(weight))
