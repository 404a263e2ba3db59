"""Backbones of Wan2.1's sizes with random weights: for speed and memory, not for pictures.

There is nothing to download. The backbone computes what a real one computes; text encoder and
decoder are stand-ins that cost next to nothing, so figures of them say nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from afstream.config import BackboneConfig, SamplerConfig
from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.wan.facts import FORMAT
from afstream.geometry import VideoFormat
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec

# of the matrices: what keeps values near 1 through many layers
SPREAD = 0.02
COLOURS = 3


class HashedText:
    """Random embeddings that depend on a prompt's letters, and on nothing it means."""

    def __init__(self, config: BackboneConfig, device: torch.device | str) -> None:
        self._shape = (config.text_len, config.text_dim)
        self._device = device

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """[B, text_len, text_dim], the same for the same prompt."""
        return torch.stack([self._one(prompt) for prompt in prompts]).to(self._device)

    def _one(self, prompt: str) -> Tensor:
        digest = hashlib.blake2b(prompt.encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return torch.randn(self._shape, generator=generator)


class ChannelsAsColours:
    """Three latent channels as red, green and blue, enlarged by a codec's strides; no picture."""

    def __init__(self, format: VideoFormat = FORMAT) -> None:  # noqa: A002
        self._format = format

    def decode(self, latents: Tensor, state: bool | None) -> tuple[Tensor, bool]:
        """[B, F, C, h, w] to [B, N, 3, H, W]; the state says that the scene has begun."""
        colours = latents[:, :, :COLOURS].tanh()
        frames = colours.repeat_interleave(self._format.temporal_stride, dim=1)
        if not state:
            frames = frames[:, self._format.temporal_stride - 1 :]
        enlarged = functional.interpolate(
            frames.flatten(0, 1), scale_factor=self._format.spatial_stride
        )
        return enlarged.unflatten(0, frames.shape[:2]), True


def open_random(
    spec: ModelSpec, config: BackboneConfig, family: ModelFamily, where: Placement
) -> VideoModel:
    """A model of a size, made up on the device; see `ModelFamily.open`."""
    details = {
        "backbone": "random weights: speed and memory are real, pictures are not",
        "text": "stand-in: random embeddings by hash",
        "vae": "stand-in: three latent channels enlarged",
    }
    return VideoModel(
        name=spec.name,
        family=family,
        backbone=random_backbone(
            config, device=where.device, dtype=where.dtype, offload=spec.offload
        ),
        text=HashedText(config, where.device),
        vae=ChannelsAsColours(),
        sampler=SamplerConfig(),
        details=details,
    )


@torch.no_grad()
def random_backbone(
    config: BackboneConfig, *, device: torch.device | str, dtype: torch.dtype, offload: int = 0
) -> Backbone:
    """A backbone whose weights never were anywhere but in their places; always the same there.

    On the meta device there is nothing to fill.
    """
    where = torch.device(device)
    with torch.device("meta"):
        backbone = Backbone(config).to(dtype)
    backbone.materialize(where, offload=offload)
    backbone.requires_grad_(False).eval()
    if where.type == "meta":
        return backbone
    generators = {place: torch.Generator(place).manual_seed(0) for place in (where.type, "cpu")}
    for name, weight in backbone.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, SPREAD, generator=generators[weight.device.type])
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    backbone.bind()
    return backbone
