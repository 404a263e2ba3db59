"""Weight files: read as plain data, mapped into memory, and brought into a module.

How checkpoints name their weights stands in `afstream.checkpoints` and nowhere else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from afstream.checkpoints.mapping import map_tensors, read_header
from afstream.errors import CheckpointError

Weights = dict[str, Tensor]

SAFETENSORS = ".safetensors"
# weights of another shape that an error names
MOST_NAMED = 3


def read_weights(path: Path) -> Any:  # noqa: ANN401  a file may hold anything
    """Read a `.safetensors` or a `.pt` file as plain data, never running code from it.

    The tensors are views of the file: nothing is read before it is used.

    Raises:
        CheckpointError: the file is missing or no checkpoint.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"no checkpoint at {path}; give the path of an existing file")
        if path.suffix.lower() == SAFETENSORS:
            return map_tensors(path)
        if not zipfile.is_zipfile(path):
            raise _unreadable(path, "it is cut short, or not what torch.save writes")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(path, "it holds Python objects that could run code") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise _unreadable(path, str(error).partition("\n")[0]) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header; none for other files.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if path.suffix.lower() != SAFETENSORS:
        return {}
    try:
        return read_header(path).metadata
    except (ValueError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def check_fit(module: nn.Module, weights: Weights, *, what: str) -> None:
    """See that weights have the names and shapes of a module's own.

    Raises:
        CheckpointError: says how many names are missing or unknown, and one of each, or names
            the first weights of another shape.
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
        raise CheckpointError(
            f"{what} does not fit the model: {'; '.join(parts)}; give the weights of one whole"
            " model of this kind"
        )
    wrong = [name for name, value in wanted.items() if value.shape != weights[name].shape]
    if wrong:
        parts = [
            f"{name} is {tuple(weights[name].shape)}, the model needs {tuple(wanted[name].shape)}"
            for name in wrong[:MOST_NAMED]
        ]
        if len(wrong) > MOST_NAMED:
            parts.append(f"{len(wrong) - MOST_NAMED} more differ")
        raise CheckpointError(
            f"{what} does not fit the model: {'; '.join(parts)}; give weights of this model's size"
        )


def load_into(module: nn.Module, weights: Weights, *, what: str) -> None:
    """Copy weights into a module; every name and shape must agree.

    Raises:
        CheckpointError: see `check_fit`; the module is as it was.
    """
    check_fit(module, weights, what=what)
    module.load_state_dict(weights)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file under another name and rename it, so that a kill leaves no half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    content = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(content, partial, metadata)
    partial.replace(path)


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as a checkpoint: {reason}; give a .safetensors file or a .pt"
        " file of tensors"
    )
