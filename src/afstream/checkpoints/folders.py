"""Wan2.1 model folders: the original layout, diffusers', and the one that `convert` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from afstream.checkpoints.families import FAMILY, has_two_backbones
from afstream.checkpoints.files import file_weights, folder_weights
from afstream.checkpoints.manifest import (
    BACKBONE_FILE,
    MANIFEST,
    Manifest,
    is_backbone_alone,
    is_converted,
    read_manifest,
)
from afstream.checkpoints.sizes import read_config
from afstream.checkpoints.students import in_wan_names
from afstream.checkpoints.weights import Weights
from afstream.errors import CheckpointError

Layout = Literal["original", "diffusers", "converted"]

STEM = "diffusion_pytorch_model"
BACKBONE_FILES = f"{STEM}*.safetensors"
INDEX_FILES = f"{BACKBONE_FILES}.index.json"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WanFolder:
    """Where the parts of a model lie.

    Attributes:
        path: the folder.
        layout: who arranged it.
        backbone: the folder with the backbone's files.
        vae: a file in the original layout, a folder in diffusers'; likewise text.
        text: the text encoder.
        tokenizer: its tokenizer's folder.
    """

    path: Path
    layout: Layout
    backbone: Path
    vae: Path
    text: Path
    tokenizer: Path

    @property
    def manifest(self) -> Manifest | None:
        """What it was made from; a folder as it is downloaded has none.

        Raises:
            CheckpointError: see `read_manifest`.
        """
        return read_manifest(self.path) if self.layout == "converted" else None

    def declared(self) -> Mapping[str, Any]:
        """The backbone's sizes as far as the folder declares them; see `read_config`.

        Raises:
            CheckpointError: they cannot be read, or are another kind of model's.
        """
        manifest = self.manifest
        return manifest.declared if manifest else read_config(self.backbone / CONFIG)

    def weights(self) -> Weights:
        """The backbone's weights under Wan's names, views of their files.

        Raises:
            CheckpointError: a file is missing or no checkpoint.
        """
        if self.layout == "converted":
            return file_weights(self.backbone / BACKBONE_FILE)
        return in_wan_names(folder_weights(self.backbone, STEM))

    def has_backbone(self) -> bool:
        """Whether there is a file of the backbone."""
        if self.layout == "converted":
            return (self.backbone / BACKBONE_FILE).is_file()
        return any(any(self.backbone.glob(name)) for name in (BACKBONE_FILES, INDEX_FILES))

    def missing(
        self, *, with_backbone: bool = True, with_vae: bool = True, with_text: bool = True
    ) -> list[Path]:
        """Pieces that a complete model has and this folder has not, relative to it.

        Args:
            with_backbone: false when a student takes the backbone's place.
            with_vae: false when another decoder takes the VAE's place.
            with_text: false when nobody asks for the text encoder and its tokenizer.
        """
        converted = self.layout == "converted"
        pieces = [self.path / MANIFEST] if converted else []
        if with_backbone and not self.has_backbone():
            pieces.append(self.backbone / (BACKBONE_FILE if converted else BACKBONE_FILES))
        pieces += [self.vae] if with_vae else []
        pieces += [self.text, self.tokenizer] if with_text else []
        return [piece.relative_to(self.path) for piece in pieces if not piece.exists()]

    def is_empty(self) -> bool:
        """Whether none of its pieces is there."""
        there = any(part.exists() for part in (self.vae, self.text, self.tokenizer))
        return not there and not self.has_backbone()


def find_parts(
    path: Path, *, with_backbone: bool = True, with_vae: bool = True, with_text: bool = True
) -> WanFolder:
    """Find out a folder's layout by what lies in it, and see that it is complete.

    Args:
        path: the folder.
        with_backbone: false when a student takes the backbone's place.
        with_vae: false when another decoder takes the VAE's place.
        with_text: false when nobody asks for the text encoder and its tokenizer.

    Raises:
        CheckpointError: it is no Wan folder, or pieces are missing; says which.
    """
    parts = likely_parts(path, with_backbone=with_backbone, with_vae=with_vae, with_text=with_text)
    if has_two_backbones(path):
        raise CheckpointError(f"{path} is a Wan2.2 folder; give the folder of a {FAMILY} model")
    if parts is None:
        raise CheckpointError(
            f"{path} holds no Wan2.1 model; give a folder as it is downloaded: original"
            " (config.json, Wan2.1_VAE.pth, ...) or diffusers' (transformer/, vae/, ...)"
        )
    missing = parts.missing(with_backbone=with_backbone, with_vae=with_vae, with_text=with_text)
    if not missing:
        return parts
    if is_backbone_alone(path):
        raise CheckpointError(
            f"{path} holds a converted backbone alone; give it as the student, and a Wan2.1 folder"
            " as the model"
        )
    again = "convert the model again" if parts.layout == "converted" else "download it again"
    raise CheckpointError(
        f"the Wan2.1 folder {path} ({parts.layout} layout) lacks"
        f" {', '.join(map(str, missing))}; {again}, or add what is missing"
    )


def likely_parts(
    path: Path, *, with_backbone: bool = True, with_vae: bool = True, with_text: bool = True
) -> WanFolder | None:
    """The layout that a folder fits best, pieces missing or not; None when it fits none."""
    if is_converted(path):
        return _converted(path)
    layouts = [_original(path), _diffusers(path)]
    if all(parts.is_empty() for parts in layouts):
        return None
    # the first of those that lack least
    return min(
        layouts,
        key=lambda parts: len(
            parts.missing(with_backbone=with_backbone, with_vae=with_vae, with_text=with_text)
        ),
    )


def _original(path: Path) -> WanFolder:
    return WanFolder(
        path=path,
        layout="original",
        backbone=path,
        vae=path / "Wan2.1_VAE.pth",
        text=path / "models_t5_umt5-xxl-enc-bf16.pth",
        tokenizer=path / "google" / "umt5-xxl",
    )


def _diffusers(path: Path) -> WanFolder:
    return WanFolder(
        path=path,
        layout="diffusers",
        backbone=path / "transformer",
        vae=path / "vae",
        text=path / "text_encoder",
        tokenizer=path / "tokenizer",
    )


def _converted(path: Path) -> WanFolder:
    return WanFolder(
        path=path,
        layout="converted",
        backbone=path,
        vae=path / "vae",
        text=path / "text_encoder",
        tokenizer=path / "tokenizer",
    )
