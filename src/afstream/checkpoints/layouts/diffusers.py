"""diffusers' layout: a folder for each piece."""

from __future__ import annotations

from pathlib import Path

from afstream.checkpoints.kinds import Piece
from afstream.checkpoints.layouts.base import WanFolder, those_there
from afstream.checkpoints.layouts.original import BACKBONE, has_backbone

FOLDER = "transformer"
PLACES: dict[Piece, Path] = {
    "backbone": Path(FOLDER, BACKBONE),
    "VAE": Path("vae"),
    "text encoder": Path("text_encoder"),
    "tokenizer": Path("tokenizer"),
}


def diffusers(path: Path) -> WanFolder | None:
    """A folder as diffusers' pipelines are saved."""
    found = those_there(path, PLACES)
    if has_backbone(path / FOLDER):
        found["backbone"] = (path / FOLDER,)
    if not found:
        return None
    return WanFolder(
        path=path, layout="diffusers", places=PLACES, found=found, config=path / FOLDER
    )
