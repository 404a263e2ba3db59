"""What lies in the folder of a checkpoint: its files with their checksums, and its tensors.

torch's own list of tensors, `.metadata`, is a pickle, and reading a pickle runs code. It is written
for torch's tools, and never read here: `manifest.json` says the same in plain words.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Size
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from afstream.atomic import write_text
from afstream.checkpoints.manifest import WrittenFile
from afstream.checkpoints.safetensors import sha256_of
from afstream.errors import CheckpointError, reason_of
from afstream.validation import Checked, validated

MANIFEST = "manifest.json"

# a file of the folder itself, whatever the manifest says
FileName = Annotated[str, Field(pattern=r"^[\w.]{1,100}$", description="the name of a file here")]
Place = Annotated[int, Field(ge=0, lt=2**63)]
Axes = tuple[Place, ...]


class ListingWriter(FileSystemWriter):
    """Writes the tensors, and keeps where each lies, which torch 2.9 does not return.

    Attributes:
        places: in the first process, file and bytes of each part of a tensor.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.places: dict[MetadataIndex, Any] = {}

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Complete the checkpoint; see `FileSystemWriter`."""
        super().finish(metadata, results)
        self.places = {one.index: one.storage_data for some in results for one in some}


class EarlierError(CheckpointError):
    """A checkpoint of an earlier afstream, which cannot be checked."""


class SavedPart(Checked):
    """A part of a tensor: its offset in the tensor, its size, and the bytes that hold it."""

    offset: Axes
    size: Axes
    file: FileName
    start: Place
    bytes: Place


class SavedTensor(Checked):
    """A tensor, whole or as the parts that different processes wrote."""

    size: Axes
    parts: tuple[SavedPart, ...]


class Manifest(Checked):
    """`manifest.json`: files and tensors by their names, and what JSON holds itself.

    `sha256` is that of all others, as JSON writes them.
    """

    sha256: str
    files: dict[FileName, WrittenFile]
    tensors: dict[str, SavedTensor]
    plain: dict[str, Any]


@dataclass(frozen=True)
class _Bytes:
    """Where a part lies, in the words of torch's reader."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class PlainReader(FileSystemReader):
    """torch's reader of checkpoints, told by the manifest what there is."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder)
        self._manifest = manifest

    def read_metadata(self, *_: object, **__: object) -> Metadata:
        """The tensors of the manifest; no file is read."""
        tensors: dict[str, Any] = {}
        places: dict[MetadataIndex, _Bytes] = {}
        for name, saved in self._manifest.tensors.items():
            parts = [
                ChunkStorageMetadata(offsets=Size(part.offset), sizes=Size(part.size))
                for part in saved.parts
            ]
            tensors[name] = TensorStorageMetadata(TensorProperties(), Size(saved.size), parts)
            for part in saved.parts:
                index = MetadataIndex(name, part.offset)
                places[index] = _Bytes(part.file, part.start, part.bytes)
        meta = StorageMeta(load_id=self.load_id)
        return Metadata(state_dict_metadata=tensors, storage_data=places, storage_meta=meta)


def written(folder: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Sizes and checksums of the files that a process wrote; the first one wrote the others, too.

    Raises:
        OSError: one cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in folder.iterdir():
        if path.name.startswith(f"__{rank}_") or (rank == 0 and not path.name.startswith("__")):
            with path.open("rb") as file:
                found[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(file)}
    return found


def write_manifest(
    folder: Path, files: Mapping[str, Any], metadata: Metadata, plain: Mapping[str, Any]
) -> None:
    """Complete a checkpoint's folder; `metadata` is what torch says that it wrote.

    Raises:
        OutputError: the system refuses.
    """
    places: Any = metadata.storage_data
    tensors: dict[str, Any] = {}
    for name, saved in metadata.state_dict_metadata.items():
        chunks: Any = getattr(saved, "chunks")  # noqa: B009  a state holds tensors alone
        size: Any = getattr(saved, "size")  # noqa: B009
        parts: list[dict[str, Any]] = []
        for chunk in chunks:
            place = places[MetadataIndex(name, chunk.offsets)]
            where = {"offset": list(chunk.offsets), "size": list(chunk.sizes)}
            held = {"start": place.offset, "bytes": place.length}
            parts.append({**where, "file": place.relative_path, **held})
        tensors[name] = {"size": list(size), "parts": parts}
    content = {"files": dict(files), "tensors": tensors, "plain": dict(plain)}
    text = json.dumps({"sha256": _sum(content), **content})
    write_text(folder / MANIFEST, text)


def read_manifest(folder: Path) -> Manifest:
    """What a checkpoint's folder holds; `plain` is as it was written, with its lists.

    Raises:
        CheckpointError: it is missing, or not as it was written; says how, without the folder.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():
            raise CheckpointError(f"{MANIFEST} is missing")
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and {"files", "plain"} == content.keys():
            raise EarlierError("it is of an earlier afstream, without checksums")
        said = content.pop("sha256")
        if said != _sum(content):
            raise CheckpointError(f"{MANIFEST} has another checksum")
        found = validated(
            Manifest, {"sha256": said, **content}, source=MANIFEST, error=CheckpointError
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} cannot be read") from error
    return found.model_copy(update={"plain": content["plain"]})


def size_fault(folder: Path, manifest: Manifest) -> str:
    """The first file or tensor of which something is missing; empty if nothing is."""
    for name, file in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        if (there := path.stat().st_size) != file.bytes:
            return f"{name} has {there} bytes of {file.bytes}"
    for name, saved in manifest.tensors.items():
        held = sum(math.prod(p.size) for p in saved.parts if p.file in manifest.files)
        if held != math.prod(saved.size):
            return f"parts of {name} are missing"
    return ""


def content_fault(folder: Path, manifest: Manifest, names: Sequence[str]) -> str:
    """The first of some files with another checksum, or that cannot be read; empty without."""
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                found = sha256_of(file)
        except OSError as error:
            return f"{name} cannot be read ({reason_of(error)})"
        if found != manifest.files[name].sha256:
            return f"{name} has another checksum"
    return ""


def _sum(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
