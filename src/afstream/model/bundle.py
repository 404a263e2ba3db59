"""Everything that one video model is made of, behind small protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from afstream.config import SamplerConfig
from afstream.geometry import FPS, Geometry
from afstream.model.dit import Backbone


class TextEncoder(Protocol):
    """Prompts to embeddings."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """[B, T, text_dim], T at most the backbone's text_len, zero behind a prompt's end.

        Raises:
            PromptError: the model cannot understand a prompt.
        """
        ...


class VideoDecoder(Protocol):
    """Latents to pictures, chunk by chunk."""

    def decode(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: ANN401
        """Decode the next latent frames of a scene.

        Args:
            latents: [B, F, C, h, w], normalised.
            state: what the last call gave back, None at a scene's start. It is never
                changed in place, so a caller may keep it and come back to it.

        Returns:
            Video [B, N, 3, H, W] in [-1, 1] and the new state.
        """
        ...


def decode_pictures(
    decoder: VideoDecoder,
    latents: Tensor,
    state: Any,  # noqa: ANN401
) -> tuple[Tensor, Any]:
    """Latents [1, F, C, h, w] as pictures, uint8 [N, H, W, 3], and the decoder's new state."""
    video, after = decoder.decode(latents, state)
    levels = ((video[0].float() + 1) * 127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), after


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoModel:
    """A model ready to stream.

    Attributes:
        name: as the user knows it.
        backbone: the causal transformer.
        text: its text encoder.
        vae: its decoder.
        sampler: the denoise steps that it was distilled for.
        geometry: its own video size.
        any_size: whether it can be asked for another size.
        fps: video frames a second.
        details: what a run record should say about it, plain data.
    """

    name: str
    backbone: Backbone
    text: TextEncoder
    vae: VideoDecoder
    sampler: SamplerConfig
    geometry: Geometry
    any_size: bool
    fps: int = FPS
    details: dict[str, str] = field(default_factory=dict[str, str])
