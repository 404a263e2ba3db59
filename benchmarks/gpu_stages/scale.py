"""How large the check is: a production model on a GPU, a tiny one where there is none."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.families.wan.family import WAN
from afstream.geometry import Geometry

CHUNK_FRAMES = WAN.lengths.chunk_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes of the model stage.

    Attributes:
        backbone: randomly initialised.
        geometry: of the video.
        dtype: of weights, keys and values.
        size: name under which the kernel bench knows these shapes.
        chunks: chunks timed.
        stream_chunks: chunks of the pocket stream that are compared.
    """

    backbone: BackboneConfig
    geometry: Geometry
    dtype: torch.dtype
    size: str
    chunks: int
    stream_chunks: int

    @property
    def chunk_shape(self) -> tuple[int, int, int, int, int]:
        """Of one chunk of latents, (B, c, C, h, w)."""
        latent_size = self.geometry.latent_height, self.geometry.latent_width
        return 1, CHUNK_FRAMES, self.backbone.in_dim, *latent_size


PRODUCTION = Scale(
    backbone=WAN_BACKBONES["wan-1.3b"],
    geometry=WAN.sized(832, 480),
    dtype=torch.bfloat16,
    size="480p",
    chunks=5,
    stream_chunks=10,
)
TINY = Scale(
    backbone=BackboneConfig(
        dim=64,
        ffn_dim=128,
        freq_dim=32,
        text_dim=24,
        text_len=8,
        num_heads=2,
        num_layers=2,
        patch=2,
    ),
    geometry=WAN.sized(32, 32),
    dtype=torch.float32,
    size="pocket",
    chunks=1,
    stream_chunks=5,
)
