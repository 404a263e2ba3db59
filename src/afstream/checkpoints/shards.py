"""The files of a model in a folder: one, or shards with an index or without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from afstream.bounded import MB
from afstream.checkpoints.configs import IndexFile
from afstream.checkpoints.files import PUBLISHED, Weights, bare_weights, read_json, read_weights
from afstream.checkpoints.quantised import dequantised
from afstream.errors import CheckpointError
from afstream.text import some_of
from afstream.validation import validated

INDEX_BYTES = 16 * MB
INDEX_VALUES = 200_000
SHARD = re.compile(r"(.+)-([0-9]{1,6})-of-([0-9]{1,6})(\..+)")
# what files that torch.save wrote are called where those of safetensors are called `model`
TORCH_STEMS = {"model": "pytorch_model"}
# shards of a model; the largest have a few dozen
MAX_SHARDS = 1000


def shard_files(folder: Path, stem: str) -> Sequence[Path]:
    """Files that hold a model's weights, `<stem>*.safetensors` or else torch's `.bin`.

    An index says which; without one `<stem>.safetensors` holds everything, or shards do.

    Raises:
        CheckpointError: an index cannot be read, files are missing, or there are several models.
    """
    for name, suffix in ((stem, ".safetensors"), (TORCH_STEMS.get(stem, stem), ".bin")):
        if found := _indexed(folder, name, suffix) or _whole(folder, name, suffix):
            return found
    return []


def folder_weights(folder: Path, stem: str) -> Weights:
    """Weights by name from all of a model's files; see `file_weights`."""
    return weights_of(shard_files(folder, stem) or [folder / f"{stem}.safetensors"])


def weights_of(paths: Sequence[Path]) -> Weights:
    """Weights by name from several files of one model; see `file_weights`."""
    weights: Weights = {}
    for path in paths:
        weights.update(bare_weights(read_weights(path), path))
    # a weight and its scale may lie in two files
    return dequantised(weights, paths[0].parent)


def read_index(path: Path) -> IndexFile:
    """The index of a model in shards; `CheckpointError` where it says what is not allowed."""
    content = read_json(path, most_bytes=INDEX_BYTES, most_values=INDEX_VALUES)
    return validated(IndexFile, content, source=str(path), remedy=PUBLISHED, error=CheckpointError)


def _indexed(folder: Path, stem: str, suffix: str) -> list[Path]:
    """Files that an index names; the index without a variant goes first."""
    plain = folder / f"{stem}{suffix}.index.json"
    indices = [plain] if plain.is_file() else sorted(folder.glob(f"{stem}*{suffix}.index*.json"))
    if not indices:
        return []
    if len(indices) > 1:
        raise _several(folder, indices)
    # an index may name files beside itself only
    names = {Path(name).name for name in read_index(indices[0]).weight_map.values()}
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise CheckpointError(
            f"the model in {folder} lacks {some_of(missing)}, which its index names; add what is"
            " missing"
        )
    return sorted(folder / name for name in names)


def _whole(folder: Path, stem: str, suffix: str) -> list[Path]:
    """One file, or all shards of one model."""
    plain = folder / f"{stem}{suffix}"
    if plain.is_file():
        return [plain]
    # by what their names have in common, which one model's shards share
    models: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{stem}*{suffix}")):
        models.setdefault(SHARD.sub(r"\1-of-\3\4", path.name), []).append(path)
    if len(models) > 1:
        raise _several(folder, [paths[0] for paths in models.values()])
    found = next(iter(models.values()), [])
    _check_complete(folder, found)
    return found


def _check_complete(folder: Path, found: Sequence[Path]) -> None:
    shard = SHARD.fullmatch(found[0].name) if found else None
    if shard is None:
        return
    first, number, count, suffix = shard.groups()
    if not 0 < int(count) <= MAX_SHARDS:
        raise CheckpointError(
            f"the model in {folder} has {int(count)} shards by the name of {found[0].name}; give"
            f" one of 1 to {MAX_SHARDS}"
        )
    names = [f"{first}-{one + 1:0{len(number)}d}-of-{count}{suffix}" for one in range(int(count))]
    absent = sorted(set(names) - {path.name for path in found})
    if absent:
        raise CheckpointError(
            f"the model in {folder} has {int(count)} shards, of which {len(found)}"
            f" {'is' if len(found) == 1 else 'are'} there; add {some_of(absent)}"
        )


def _several(folder: Path, paths: Sequence[Path]) -> CheckpointError:
    names = some_of([path.name for path in paths])
    return CheckpointError(
        f"{folder} holds several models, {names}; keep one of them in a folder of its own"
    )
