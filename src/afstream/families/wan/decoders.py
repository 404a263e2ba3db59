"""Decoders of Wan2.1 latents told apart: Wan's own, a light one, a tiny one."""

from __future__ import annotations

from pathlib import Path

import torch

from afstream.checkpoints.files import file_weights, is_folder
from afstream.errors import CheckpointError
from afstream.families.wan.tiny import FILES, TinyVae, load_tiny, looks_tiny
from afstream.families.wan.vae import WanVae, load_vae

# the first that is there is taken
TINY_NAMES = ("taew2_1.safetensors", "taew2_1.pth", "lighttaew2_1.safetensors", "lighttaew2_1.pth")


def open_decoder(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WanVae | TinyVae:
    """Read whichever decoder of Wan2.1 latents a path holds; see `load_vae` and `load_tiny`.

    Raises:
        CheckpointError: there is no such file, or it is no decoder of Wan2.1 latents.
    """
    if is_folder(path) or not looks_tiny(file_weights(path)):
        return load_vae(path, device=device, dtype=dtype)
    return load_tiny(path, device=device, dtype=dtype)


def find_tiny(folder: Path) -> Path:
    """The tiny VAE in a model folder, by its name in any case; TAEHV's own goes first.

    Raises:
        CheckpointError: there is none; says which to fetch and where to put it.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path.name.lower(): path for path in files if path.is_file()}
    for name in TINY_NAMES:
        if name in found:
            return found[name]
    raise CheckpointError(
        f"the model folder {folder} has no tiny VAE; put {FILES}, into it, or give its path with"
        " --vae PATH"
    )
