"""Checkpoints of the backbone: reading, key renames, LoRA merged once.

Checkpoint names live here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from afstream.errors import CheckpointError

Weights = dict[str, Tensor]

WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
STUDENT_ENTRIES = ("generator_ema", "generator")
STUDENT_PREFIX = "model."
LORA_ENTRY = "generator_lora"
LORA_PREFIX = "base_model.model."


def read_weights(path: Path) -> Any:  # noqa: ANN401  a file may hold anything
    """Read a `.safetensors` or a `.pt` file as plain data, never running code from it.

    Raises:
        CheckpointError: the file is missing or no checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give the path of an existing file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error


def student_weights(path: Path, *, entry: str | None = None) -> Weights:
    """Backbone weights under Wan's names, from any student checkpoint.

    Args:
        path: weights directly, or a dict with `generator_ema` and/or `generator`.
        entry: which of them; without it the first that is there.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or lacks the entry.
    """
    content = read_weights(path)
    if entry is not None and entry not in content:
        raise CheckpointError(f"{path} has no entry {entry!r}; it has {', '.join(content)}")
    names = [entry] if entry is not None else [name for name in STUDENT_ENTRIES if name in content]
    weights: dict[str, Any] = content[names[0]] if names else content
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path} holds {', '.join(weights)}; expected weights, or one of"
            f" {', '.join(STUDENT_ENTRIES)}"
        )
    return {_plain(name).removeprefix(STUDENT_PREFIX): value for name, value in weights.items()}


def lora_weights(path: Path) -> Weights:
    """The low-rank pairs `<layer>.lora_A.weight`, `<layer>.lora_B.weight` of a PEFT dict.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds no pair.
    """
    content = read_weights(path)
    weights: Weights = content.get(LORA_ENTRY, content)
    pairs = {
        _plain(name).removeprefix(LORA_PREFIX).replace(".default.", "."): value
        for name, value in weights.items()
        if ".lora_" in name
    }
    if not pairs:
        raise CheckpointError(f"{path} holds no LoRA weights (names with lora_A and lora_B)")
    return pairs


def merge_lora(weights: Weights, lora: Weights, *, alpha: float | None = None) -> Weights:
    """Add alpha / rank * B A to every weight that has a pair; alpha is the rank by default.

    Raises:
        CheckpointError: a pair is incomplete or has no weight to go to.
    """
    merged = dict(weights)
    for name, down in lora.items():
        if not name.endswith(".lora_A.weight"):
            continue
        target = name.replace(".lora_A.weight", ".weight")
        up = lora.get(name.replace("lora_A", "lora_B"))
        if up is None or target not in weights:
            raise CheckpointError(f"LoRA pair {name} has no partner or no weight {target}")
        scale = 1.0 if alpha is None else alpha / down.shape[0]
        # the product in float64: merged once, so its rounding should not be seen
        delta = scale * (up.double() @ down.double())
        merged[target] = (weights[target].double() + delta).to(weights[target].dtype)
    return merged


def load_into(module: nn.Module, weights: Weights, *, what: str) -> None:
    """Copy weights into a module; every name and shape must agree.

    Raises:
        CheckpointError: says how many names are missing or unknown, and one of each.
    """
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unknown = sorted(weights.keys() - wanted.keys())
    if missing or unknown:
        parts = [
            f"{len(names)} {word}, for example {names[0]}"
            for word, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise CheckpointError(f"{what} does not fit the model: {'; '.join(parts)}")
    for name, value in wanted.items():
        if value.shape != weights[name].shape:
            raise CheckpointError(
                f"{what} does not fit the model: {name} is {tuple(weights[name].shape)},"
                f" the model needs {tuple(value.shape)}"
            )
    module.load_state_dict(weights)


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
