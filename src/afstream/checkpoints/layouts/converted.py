"""The layout that `afstream convert` writes."""

from __future__ import annotations

from pathlib import Path

from afstream.checkpoints.kinds import Piece
from afstream.checkpoints.layouts.base import WanFolder, is_there, those_there
from afstream.checkpoints.manifest import BACKBONE_FILE, MANIFEST, is_converted

PLACES: dict[Piece, Path] = {
    "backbone": Path(BACKBONE_FILE),
    "VAE": Path("vae"),
    "text encoder": Path("text_encoder"),
    "tokenizer": Path("tokenizer"),
}


def converted(path: Path) -> WanFolder | None:
    """A folder with `afstream.json`, or with the backbone that is written beside it."""
    if not is_converted(path):
        return None
    found = those_there(path, PLACES)
    # its manifest says what the file holds
    if "backbone" in found:
        found["backbone"] = (path,)
    lacks = () if is_there(path / MANIFEST) else (Path(MANIFEST),)
    return WanFolder(
        path=path, layout="converted", places=PLACES, found=found, config=path, lacks=lacks
    )
