"""Wan's own layout: one folder with the backbone's shards, a VAE file and a text encoder file."""

from __future__ import annotations

from pathlib import Path

from afstream.checkpoints.kinds import Piece
from afstream.checkpoints.layouts.base import WanFolder, those_there
from afstream.checkpoints.layouts.contents import by_content
from afstream.checkpoints.names import STEM

SUFFIXES = (".safetensors", ".bin")
BACKBONE = f"{STEM}*.safetensors"
PLACES: dict[Piece, Path] = {
    "backbone": Path(BACKBONE),
    "VAE": Path("Wan2.1_VAE.pth"),
    "text encoder": Path("models_t5_umt5-xxl-enc-bf16.pth"),
    "tokenizer": Path("google/umt5-xxl"),
}
# files of these may have other names: ComfyUI's, Kijai's, LightX2V's
NAMED_FREELY: tuple[Piece, ...] = ("VAE", "text encoder")


def has_backbone(folder: Path) -> bool:
    """Whether there is a file of the backbone, or an index of them."""
    names = (f"{STEM}*{suffix}{end}" for suffix in SUFFIXES for end in ("", ".index*.json"))
    return any(any(folder.glob(name)) for name in names)


def original(path: Path) -> WanFolder | None:
    """A folder as Wan's authors publish it; VAE and text encoder may have other names."""
    found = those_there(path, PLACES)
    if has_backbone(path):
        found["backbone"] = (path,)
    if not found:
        return None
    unread: list[Path] = []
    absent: list[Piece] = [piece for piece in NAMED_FREELY if piece not in found]
    if absent:
        others = (one for one in path.iterdir() if not one.name.startswith(STEM))
        by_name, unread = by_content(others, absent)
        found.update(by_name)
    return WanFolder(
        path=path,
        layout="original",
        places=PLACES,
        found=found,
        config=path,
        unread=tuple(unread),
    )
