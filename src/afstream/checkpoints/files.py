"""The files of a model folder: settings in `config.json`, weights in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from afstream.checkpoints.configs import IndexFile
from afstream.checkpoints.weights import Weights, read_weights
from afstream.errors import CheckpointError
from afstream.validation import Checked, validated

C = TypeVar("C", bound=Checked)


def read_json(path: Path) -> dict[str, Any]:
    """Settings by name from a JSON file.

    Raises:
        CheckpointError: it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a model's {path.name}; download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings by name; download it again")
    return content


def read_settings(path: Path, model: type[C], *, remedy: str = "download it again") -> C:
    """Settings from a JSON file, their types and bounds checked.

    Raises:
        CheckpointError: the file is missing, or says something that is not allowed.
    """
    content = read_json(path)
    return validated(model, content, source=str(path), remedy=remedy, error=CheckpointError)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder.

    Raises:
        CheckpointError: it is out of reach.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be reached: {error.strerror}; give the path of a file or a folder"
        ) from error


def shard_files(folder: Path, stem: str) -> Sequence[Path]:
    """Files that hold a model's weights: those that an index names, else `<stem>*.safetensors`.

    Where `<stem>.safetensors` itself is there without an index, it holds everything.

    Raises:
        CheckpointError: an index cannot be read, or names files that are not there.
    """
    named: set[str] = set()
    for index in folder.glob(f"{stem}*.safetensors.index.json"):
        named.update(read_settings(index, IndexFile).weight_map.values())
    # an index may name files beside itself only
    files = sorted(folder / Path(name).name for name in named)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"the model in {folder} lacks {', '.join(missing)}, which its index names; download"
            " it again, or add what is missing"
        )
    whole = folder / f"{stem}.safetensors"
    return files or ([whole] if whole.is_file() else sorted(folder.glob(f"{stem}*.safetensors")))


def folder_weights(folder: Path, stem: str) -> Weights:
    """Weights by name from all of a model's files, views of them.

    Raises:
        CheckpointError: a file is missing or no checkpoint.
    """
    weights: Weights = {}
    for path in shard_files(folder, stem) or [folder / f"{stem}.safetensors"]:
        weights.update(file_weights(path))
    return weights


def file_weights(path: Path) -> Weights:
    """Weights by name from one file, views of it.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds something else.
    """
    return named_tensors(read_weights(path), path)


def named_tensors(
    content: object, path: Path, *, wanted: str = "a file of weights alone"
) -> Weights:
    """See that what was read from a file is nothing but weights by name.

    Raises:
        CheckpointError: it is not; says what is wanted.
    """
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds {kind}, so it holds no weights by name; give {wanted}")
    if not content:
        raise CheckpointError(f"{path} holds no weights by name; give {wanted}")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds {others[0]!r}, which is no tensor; give {wanted}")
    return content
