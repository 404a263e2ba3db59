"""Wan2.1 model folders: the original layout, diffusers', and the one that `convert` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from afstream.checkpoints.files import Weights, file_weights
from afstream.checkpoints.kinds import FAMILY, has_two_backbones
from afstream.checkpoints.manifest import (
    BACKBONE_FILE,
    MANIFEST,
    Manifest,
    is_backbone_alone,
    is_converted,
    read_manifest,
)
from afstream.checkpoints.names import CONFIG, STEM
from afstream.checkpoints.shards import folder_weights, shard_files
from afstream.checkpoints.sizes import read_config
from afstream.checkpoints.students import in_wan_names
from afstream.errors import CheckpointError
from afstream.text import some_of

Layout = Literal["original", "diffusers", "converted"]
Piece = Literal["backbone", "text encoder", "tokenizer", "VAE"]

PIECES: tuple[Piece, ...] = ("backbone", "text encoder", "tokenizer", "VAE")
BESIDE: tuple[Piece, ...] = ("VAE", "text encoder", "tokenizer")
BACKBONE_FILES = f"{STEM}*.safetensors"
SUFFIXES = (".safetensors", ".bin")
# where each of them lies: a folder, or a file
PLACES: dict[Layout, tuple[str, ...]] = {
    "original": ("", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl", "Wan2.1_VAE.pth"),
    "diffusers": ("transformer", "text_encoder", "tokenizer", "vae"),
    "converted": ("", "text_encoder", "tokenizer", "vae"),
}
DOWNLOADED: tuple[Layout, ...] = ("original", "diffusers")


@dataclass(frozen=True, slots=True, kw_only=True)
class WanFolder:
    """A folder and who arranged it, whether all pieces of a model are there or not."""

    path: Path
    layout: Layout

    def place(self, piece: Piece) -> Path:
        """The folder of a piece; in the original layout VAE and text encoder are files."""
        return self.path / PLACES[self.layout][PIECES.index(piece)]

    @property
    def manifest(self) -> Manifest | None:
        """What it was made from, if it was converted; see `read_manifest`."""
        return read_manifest(self.path) if (self.path / MANIFEST).is_file() else None

    def declared(self) -> Mapping[str, Any]:
        """The backbone's sizes as far as the folder declares them; see `read_config`."""
        manifest = self.manifest
        return (
            manifest.backbone.sizes() if manifest else read_config(self.place("backbone") / CONFIG)
        )

    def weights(self) -> Weights:
        """The backbone's weights under Wan's names; see `file_weights`."""
        if self.layout == "converted":
            return file_weights(self.place("backbone") / BACKBONE_FILE)
        place = self.place("backbone")
        return in_wan_names(folder_weights(place, STEM), place)

    def backbone_files(self) -> Sequence[Path]:
        """The files of the backbone's weights; raises what `shard_files` raises."""
        if self.layout == "converted":
            return [self.place("backbone") / BACKBONE_FILE]
        return shard_files(self.place("backbone"), STEM)

    def has_backbone(self) -> bool:
        """Whether there is a file of the backbone, or an index of them."""
        if self.layout == "converted":
            return (self.place("backbone") / BACKBONE_FILE).is_file()
        names = (f"{STEM}*{suffix}{end}" for suffix in SUFFIXES for end in ("", ".index*.json"))
        return any(any(self.place("backbone").glob(name)) for name in names)

    def missing(self, wanted: Sequence[Piece] = PIECES) -> list[Path]:
        """Places of wanted pieces that are not there, relative to the folder."""
        converted = self.layout == "converted"
        places = [Path(MANIFEST)] if converted else []
        if "backbone" in wanted and not self.has_backbone():
            backbone = self.place("backbone").relative_to(self.path)
            places.append(backbone / (BACKBONE_FILE if converted else BACKBONE_FILES))
        places += [place for piece, place in self.places().items() if piece in wanted]
        return [place for place in places if not (self.path / place).exists()]

    def places(self) -> dict[Piece, Path]:
        """Where the pieces beside the backbone belong, relative to the folder."""
        return {piece: self.place(piece).relative_to(self.path) for piece in BESIDE}


def find_parts(
    path: Path, *, with_backbone: bool = True, with_vae: bool = True, with_text: bool = True
) -> WanFolder:
    """Find out a folder's layout by what lies in it, and check that it is complete.

    Args:
        path: the folder.
        with_backbone: false when a student takes the backbone's place.
        with_vae: false when another decoder takes the VAE's place.
        with_text: false when the text encoder and its tokenizer are not needed.

    Raises:
        CheckpointError: it is no Wan folder, or pieces are missing; says which.
    """
    asked = (with_backbone, with_text, with_text, with_vae)
    wanted: list[Piece] = [
        piece for piece, is_wanted in zip(PIECES, asked, strict=True) if is_wanted
    ]
    parts = likely_parts(path, wanted)
    if has_two_backbones(path):
        raise CheckpointError(f"{path} is a Wan2.2 folder; give the folder of a {FAMILY} model")
    if parts is None:
        raise CheckpointError(
            f"{path} holds no Wan2.1 model; give a folder as it is downloaded: original"
            " (config.json, Wan2.1_VAE.pth, ...) or diffusers' (transformer/, vae/, ...)"
        )
    missing = parts.missing(wanted)
    if not missing:
        return parts
    if is_backbone_alone(path):
        raise CheckpointError(
            f"{path} holds a converted backbone alone; give it as the student, and a Wan2.1 folder"
            " as the model"
        )
    # of another family other pieces are right
    parts.declared()
    again = "convert the model again, or " if parts.layout == "converted" else ""
    raise CheckpointError(
        f"the Wan2.1 folder {path} ({parts.layout} layout) lacks"
        f" {', '.join(map(str, missing))}; {again}add what is missing{_other_backbone(parts)}"
    )


def _other_backbone(parts: WanFolder) -> str:
    """A hint at files that may be the backbone of a folder that has none of the known names."""
    if parts.layout == "converted" or parts.has_backbone():
        return ""
    there = (path.name for path in parts.place("backbone").glob("*.safetensors") if path.is_file())
    names = some_of(sorted(there))
    return f", or give the backbone as the student, if it is in one file ({names})" if names else ""


def likely_parts(path: Path, wanted: Sequence[Piece] = PIECES) -> WanFolder | None:
    """The layout that a folder fits best, pieces missing or not; None when it fits none."""
    if is_converted(path):
        return WanFolder(path=path, layout="converted")
    layouts = [WanFolder(path=path, layout=layout) for layout in DOWNLOADED]
    if all(len(parts.missing()) == len(PIECES) for parts in layouts):
        return None
    # the first of those that lack least
    return min(layouts, key=lambda parts: len(parts.missing(wanted)))
