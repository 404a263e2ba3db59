"""`afstream.json`: what a converted folder holds, and what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afstream.checkpoints.families import FAMILY
from afstream.checkpoints.files import read_json
from afstream.config import BackboneConfig, from_mapping
from afstream.errors import CheckpointError, ConfigError

MANIFEST = "afstream.json"
BACKBONE = "backbone"
BACKBONE_FILE = "backbone.safetensors"
FORMAT = 1
READ_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What `afstream convert` made.

    Attributes:
        backbone: its sizes.
        dtype: of all weights.
        parts: names of what is there: `backbone`, `vae`, `text_encoder`, `tokenizer`.
        made_from: `folder`, `student`, `loras` and `vae`, each as a run record names it.
        files: SHA-256 and bytes of each file of weights, by its path in the folder.
    """

    backbone: BackboneConfig
    dtype: str
    parts: Sequence[str]
    made_from: Mapping[str, str]
    files: Mapping[str, tuple[str, int]]

    @property
    def declared(self) -> dict[str, Any]:
        """The backbone's sizes as `read_config` gives them."""
        return {**asdict(self.backbone), "head_dim": self.backbone.head_dim}

    @property
    def origin(self) -> str:
        """What it was made from, in a few words."""
        return ", ".join(self.made_from.values())

    def write(self, folder: Path) -> None:
        """Write it into a folder.

        Raises:
            OSError: it cannot be written.
        """
        files = {
            name: {"sha256": digest, "bytes": size} for name, (digest, size) in self.files.items()
        }
        content = {
            "format": FORMAT,
            "family": FAMILY,
            "dtype": self.dtype,
            "parts": list(self.parts),
            "backbone": asdict(self.backbone),
            "made_from": dict(self.made_from),
            "files": files,
        }
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def changed(self, folder: Path, *, contents: bool = False) -> list[str]:
        """Files that are missing or not as they were written.

        Args:
            folder: where they lie.
            contents: read every byte, and do not only compare sizes.

        Raises:
            CheckpointError: a file cannot be read.
        """
        return [
            name
            for name, (digest, size) in self.files.items()
            if not (folder / name).is_file()
            or (folder / name).stat().st_size != size
            or (contents and _digest(folder / name) != digest)
        ]


def is_converted(path: Path) -> bool:
    """Whether a path is a folder that `afstream convert` made."""
    try:
        return any((path / name).is_file() for name in (MANIFEST, BACKBONE_FILE))
    except OSError:
        return False


def is_backbone_alone(path: Path) -> bool:
    """Whether a path is a converted folder of nothing but a backbone.

    Raises:
        CheckpointError: its manifest is damaged.
    """
    there = is_converted(path) and (path / MANIFEST).is_file()
    return there and tuple(read_manifest(path).parts) == (BACKBONE,)


def read_manifest(folder: Path) -> Manifest:
    """Read a converted folder's manifest.

    Raises:
        CheckpointError: it is missing, damaged, or of a later afstream.
    """
    path = folder / MANIFEST
    content = read_json(path)
    if content.get("format") != FORMAT or content.get("family") != FAMILY:
        raise CheckpointError(
            f"{path} is of format {content.get('format')!r} for {content.get('family')!r}; this"
            f" afstream reads format {FORMAT} for {FAMILY!r}, so convert the model again"
        )
    try:
        return _manifest(content)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); convert the model again"
        ) from error


def _manifest(content: Mapping[str, Any]) -> Manifest:
    return Manifest(
        # the first folders did not say it
        backbone=from_mapping(BackboneConfig, {"patch": 2, **content["backbone"]}),
        dtype=str(content["dtype"]),
        parts=tuple(map(str, content["parts"])),
        made_from={str(name): str(value) for name, value in content["made_from"].items()},
        files={
            str(name): (str(entry["sha256"]), int(entry["bytes"]))
            for name, entry in content["files"].items()
        },
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(READ_BYTES):
                digest.update(part)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; convert again") from error
    return digest.hexdigest()
