"""ComfyUI's `models/`: a folder for each kind of file, the files of many models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afstream.checkpoints.kinds import Piece
from afstream.checkpoints.layouts.base import WanFolder, is_there
from afstream.checkpoints.layouts.contents import by_content

# the names that a folder has, the present one first
FOLDERS: dict[Piece, tuple[str, ...]] = {
    "backbone": ("diffusion_models", "unet"),
    "VAE": ("vae",),
    "text encoder": ("text_encoders", "clip"),
}
# other layouts have no folder of these names
TELLING = (*FOLDERS["backbone"], *FOLDERS["text encoder"])
# ComfyUI has its tokenizers in text encoders' files; where it is not, it may lie in one of these
TOKENIZERS = (Path("tokenizer"), Path("google/umt5-xxl"))
# of diffusers, whose older models have a unet/, too
INDEX = "model_index.json"


def comfyui(path: Path) -> WanFolder | None:
    """A folder as ComfyUI looks for models, told by its folders; each file by what it holds."""
    if is_there(path / INDEX) or not any((path / name).is_dir() for name in TELLING):
        return None
    found: dict[Piece, Sequence[Path]] = {}
    unread: list[Path] = []
    for piece, names in FOLDERS.items():
        files = (file for name in names for file in (path / name).rglob("*"))
        by_name, bad = by_content(files, [piece])
        found.update(by_name)
        unread += bad
    if tokenizers := [path / name for name in TOKENIZERS if (path / name).is_dir()]:
        found["tokenizer"] = tokenizers[:1]
    places: dict[Piece, Path] = {piece: Path(names[0]) for piece, names in FOLDERS.items()}
    places["tokenizer"] = TOKENIZERS[0]
    return WanFolder(
        path=path,
        layout="ComfyUI",
        places=places,
        found=found,
        config=None,
        unread=tuple(unread),
    )
