"""Wan2.1 model folders as they are downloaded: the original layout, and diffusers'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from afstream.errors import CheckpointError
from afstream.model.checkpoints.students import in_wan_names
from afstream.model.files import folder_weights
from afstream.model.weights import Weights

Layout = Literal["original", "diffusers"]

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
    def config(self) -> Path:
        """The backbone's sizes."""
        return self.backbone / CONFIG

    def weights(self) -> Weights:
        """The backbone's weights under Wan's names, views of their files.

        Raises:
            CheckpointError: a file is missing or no checkpoint.
        """
        return in_wan_names(folder_weights(self.backbone, STEM))


def find_parts(
    path: Path, *, with_backbone: bool = True, with_vae: bool = True, with_text: bool = True
) -> WanFolder:
    """Find out a folder's layout by what lies in it.

    Args:
        path: the folder.
        with_backbone: false when a student takes the backbone's place.
        with_vae: false when another decoder takes the VAE's place.
        with_text: false when nobody asks for the text encoder and its tokenizer.

    Raises:
        CheckpointError: it is no Wan folder, or pieces are missing; says which.
    """
    layouts = [_original(path), _diffusers(path)]
    wanted = [
        [
            *((parts.vae,) if with_vae else ()),
            *((parts.text, parts.tokenizer) if with_text else ()),
        ]
        for parts in layouts
    ]
    lacking = [
        _missing(parts, others, with_backbone=with_backbone)
        for parts, others in zip(layouts, wanted, strict=True)
    ]
    best = min(range(len(layouts)), key=lambda index: len(lacking[index]))
    parts, missing = layouts[best], lacking[best]
    if all(_nothing_in(parts) for parts in layouts):
        raise CheckpointError(
            f"{path} holds no Wan2.1 model; give a folder as it is downloaded: original"
            " (config.json, Wan2.1_VAE.pth, ...) or diffusers' (transformer/, vae/, ...)"
        )
    if missing:
        raise CheckpointError(
            f"the Wan2.1 folder {path} ({parts.layout} layout) lacks"
            f" {', '.join(str(piece.relative_to(path)) for piece in missing)}; download it again,"
            " or add what is missing"
        )
    return parts


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


def _missing(parts: WanFolder, wanted: list[Path], *, with_backbone: bool) -> list[Path]:
    others = [part for part in wanted if not part.exists()]
    if not with_backbone or _has_backbone(parts.backbone):
        return others
    return [parts.backbone / BACKBONE_FILES, *others]


def _has_backbone(folder: Path) -> bool:
    return any(folder.glob(BACKBONE_FILES)) or any(folder.glob(INDEX_FILES))


def _nothing_in(parts: WanFolder) -> bool:
    there = any(part.exists() for part in (parts.vae, parts.text, parts.tokenizer))
    return not there and not _has_backbone(parts.backbone)
