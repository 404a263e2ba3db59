"""Decoders of Wan2.1 latents told apart: Wan's own, a light one, a tiny one."""

from __future__ import annotations

from pathlib import Path

import torch

from afstream.checkpoints.files import file_weights, is_folder
from afstream.families.wan.tiny import TinyVae, load_tiny, looks_tiny
from afstream.families.wan.vae import WanVae, load_vae


def open_decoder(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WanVae | TinyVae:
    """Read whichever decoder of Wan2.1 latents a path holds; see `load_vae` and `load_tiny`.

    Raises:
        ConfigError: diffusers is not installed, and the decoder is none of the tiny ones.
        CheckpointError: there is no such file, or it is no decoder of Wan2.1 latents.
    """
    if is_folder(path) or not looks_tiny(file_weights(path)):
        return load_vae(path, device=device, dtype=dtype)
    return load_tiny(path, device=device, dtype=dtype)
