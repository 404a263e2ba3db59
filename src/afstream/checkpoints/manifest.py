"""`afstream.json`: what a converted folder holds, and what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from afstream.checkpoints.configs import BackboneFile, PartFile
from afstream.checkpoints.files import read_json
from afstream.checkpoints.kinds import FAMILY
from afstream.checkpoints.safetensors import sha256_of
from afstream.errors import CheckpointError
from afstream.validation import Checked, show_value, validated

MANIFEST = "afstream.json"
BACKBONE = "backbone"
BACKBONE_FILE = "backbone.safetensors"
FORMAT = 1
AGAIN = "convert the model again"

Part = Literal["backbone", "vae", "text_encoder", "tokenizer"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="a SHA-256")]


class WrittenFile(Checked):
    """A file of weights as it was written."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class Manifest(Checked):
    """What `afstream convert` made.

    Attributes:
        format: of this file.
        made_from: `folder`, `student`, `loras` and `vae`, each as a run record names it.
        files: the files of weights, by their paths in the folder.
    """

    format: Literal[1] = FORMAT
    family: Literal["Wan2.1 text-to-video"] = FAMILY
    dtype: Annotated[str, Field(pattern="^(bfloat16|float32)$", description="bfloat16 or float32")]
    parts: tuple[Part, ...]
    backbone: BackboneFile
    made_from: dict[str, str]
    files: dict[PartFile, WrittenFile]

    @property
    def origin(self) -> str:
        """What it was made from, in a few words."""
        return ", ".join(self.made_from.values())

    def write(self, folder: Path) -> None:
        """Write it into a folder; raises `OSError` where that fails."""
        unsaid = {"backbone": {"class_name", "model_type"}}
        text = self.model_dump_json(indent=2, exclude=unsaid, exclude_none=True)
        (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")

    def changed(self, folder: Path, *, contents: bool = False) -> list[str]:
        """Files that are missing or not as they were written, by size or also by `contents`.

        Raises:
            CheckpointError: a file cannot be read.
        """
        return [
            name
            for name, file in self.files.items()
            if not (folder / name).is_file()
            or (folder / name).stat().st_size != file.bytes
            or (contents and _digest(folder / name) != file.sha256)
        ]


def is_converted(path: Path) -> bool:
    """Whether a path is a folder that `afstream convert` made."""
    try:
        return any((path / name).is_file() for name in (MANIFEST, BACKBONE_FILE))
    except OSError:
        return False


def is_backbone_alone(path: Path) -> bool:
    """Whether a path is a converted folder of nothing but a backbone; see `read_manifest`."""
    there = is_converted(path) and (path / MANIFEST).is_file()
    return there and read_manifest(path).parts == (BACKBONE,)


def read_manifest(folder: Path) -> Manifest:
    """Read a converted folder's manifest.

    Raises:
        CheckpointError: it is missing, damaged, or of a later afstream.
    """
    path = folder / MANIFEST
    content = read_json(path)
    if content.get("format") != FORMAT or content.get("family") != FAMILY:
        raise CheckpointError(
            f"{path} is of format {show_value(content.get('format'))} for"
            f" {show_value(content.get('family'))}; this afstream reads format {FORMAT} for"
            f" {FAMILY!r}, so {AGAIN}"
        )
    return validated(Manifest, content, source=str(path), remedy=AGAIN, error=CheckpointError)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return sha256_of(file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; convert again") from error
