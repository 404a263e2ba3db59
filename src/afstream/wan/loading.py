"""What the text encoder and the decoder share: optional packages, config files, placing weights."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from afstream.errors import CheckpointError, ConfigError
from afstream.model.weights import Weights, check_fit, read_weights

M = TypeVar("M", bound=nn.Module)

INSTALL = "pip install 'afstream[wan]'"


def optional(package: str, name: str) -> Any:  # noqa: ANN401  another package's class or function
    """Import a name from a package that only Wan models need, and only when one is loaded.

    Raises:
        ConfigError: the package is not installed, or is too old or broken.
    """
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Wan models need transformers and diffusers; install them with {INSTALL}"
        ) from error
    # their lazy imports raise RuntimeError when something below them fails
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"Wan models need {name} from {package}, which the installed release does not give;"
            f" update it with {INSTALL} --upgrade"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`.

    Raises:
        CheckpointError: it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a model's config.json; download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings by name; download it again")
    return content


def folder_weights(folder: Path, stem: str) -> Weights:
    """Weights from `<stem>.safetensors`, or from the shards that its index names.

    Raises:
        CheckpointError: a file is missing or no checkpoint.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return file_weights(folder / f"{stem}.safetensors")
    shards: Any = read_config(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index} names no files of weights; download it again")
    weights: Weights = {}
    # an index may name files beside itself only
    for name in sorted({Path(str(shard)).name for shard in shards.values()}):
        weights.update(file_weights(folder / name))
    return weights


def file_weights(path: Path) -> Weights:
    """Weights by name from one file, views of it.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds something else.
    """
    content = read_weights(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no weights by name; give a checkpoint that does")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path} holds {others[0]!r}, which is no tensor; give a file of weights alone"
        )
    return content


def placed(
    make: Callable[[], M],
    weights: Weights,
    *,
    what: str,
    device: torch.device | str,
    dtype: torch.dtype,
) -> M:
    """A module that never existed with random weights, around weights brought to a device.

    Args:
        make: builds the module.
        weights: one for every name in it; views of files stay unread until their turn comes.
        what: what errors call the weights.
        device: where it will run.
        dtype: of the weights there.

    Raises:
        CheckpointError: weights do not fit, or the module cannot have such sizes.
    """
    try:
        with torch.device("meta"):
            module = make()
    except (TypeError, ValueError, KeyError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{what} has sizes that make no model: {reason}") from error
    check_fit(module, weights, what=what)
    # by identity, so that a weight under two names stays one tensor
    copies = {id(value): value.to(device, dtype, copy=True) for value in weights.values()}
    state = {name: copies[id(value)] for name, value in weights.items()}
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()
