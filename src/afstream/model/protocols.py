"""What a stream needs of a model's three parts: text encoder, backbone, decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from afstream.attention.base import AttentionContext
from afstream.config import BackboneConfig
from afstream.model.dit import TextContext, TimeContext


class TextEncoder(Protocol):
    """Encodes prompts."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, T, text_dim], T at most the backbone's text_len, padded with zeros.

        Raises:
            PromptError: the model cannot understand a prompt.
        """
        ...


class DenoisingBackbone(Protocol):
    """A causal transformer that predicts the flow (noise - clean) of noisy latents.

    Self-attention goes through the `AttentionContext` of each call, which holds the keys and values
    of earlier chunks; the backbone itself keeps no state.
    """

    @property
    def config(self) -> BackboneConfig:
        """Its sizes, which determine those of the KV cache."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its activations, and of cached keys and values."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def is_compiled(self) -> bool:
        """Whether torch compiles its layers; calls of changing lengths are then made eagerly."""
        ...

    @property
    def is_offloaded(self) -> bool:
        """Whether weights lie in host memory; its calls are then not captured in CUDA graphs."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """All of its weights."""
        ...

    def time_context(self, timestep: Tensor) -> TimeContext:
        """Embed timesteps [B or 1, F or 1] on the scale of 0 .. 1000."""
        ...

    def text_context(self, prompt_embeds: Tensor) -> TextContext:
        """Project prompt embeddings [B, T, text_dim] once per prompt, for every layer."""
        ...

    def __call__(
        self, latents: Tensor, time: TimeContext, text: TextContext, context: AttentionContext
    ) -> Tensor:
        """Predict the flow of latents [B, F, C, h, w], in their shape and dtype."""
        ...

    def write_kv(
        self, latents: Tensor, time: TimeContext, text: TextContext, context: AttentionContext
    ) -> None:
        """Only write the keys and values of every layer."""
        ...


class VideoDecoder(Protocol):
    """Decodes latents to video, chunk by chunk."""

    def decode(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: ANN401
        """Decode the next latent frames of a scene.

        Args:
            latents: [B, F, C, h, w], normalised.
            state: what the last call returned, None at a scene's start. It is never changed in
                place, so a caller may keep it and go back to it.

        Returns:
            Video [B, N, 3, H, W] in [-1, 1] and the new state.
        """
        ...
