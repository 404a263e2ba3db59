"""The causal video diffusion transformer: embed, layers, head (Wan2.1 names and layout).

Latents are [B, F, C, h, w], a token is a square patch of one latent frame (`config.patch` rows
and columns), and tokens run in (frame, row, column) order. The same module serves the student,
which attends to a KV cache, and bidirectional models, which attend to a whole clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from afstream.attention.base import AttentionContext
from afstream.config import BackboneConfig
from afstream.model.block_swap import BlockSwap, materialize, pick_layers
from afstream.model.layers import Layer, Modulation, TextKeys, modulation
from afstream.model.linear import Linear
from afstream_kernels import Backend, modulate, to_device

TIME_BASE = 10000.0


class TimeContext(NamedTuple):
    """An embedded timestep, as the layers and the head take it.

    Attributes:
        embedding: [B or 1, F or 1, C], for the head.
        projection: [B or 1, F or 1, 6, C], for the layers.
        modulations: what each layer makes of it, where that was computed beforehand.
    """

    embedding: Tensor
    projection: Tensor
    modulations: tuple[Modulation, ...] = ()

    def layer(self, index: int) -> Tensor | Modulation:
        """What one layer takes."""
        return self.modulations[index] if self.modulations else self.projection


TextContext = tuple[TextKeys, ...]


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """Timesteps [...] to [..., width]: cosines, then sines, computed in float64."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
    angles = timestep.double()[..., None] * TIME_BASE**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Head(nn.Module):
    """Modulated norm, then a linear map of each token to its patch."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.out_dim * config.patch**2)
        self.modulation = modulation(2, config.dim)

    def forward(self, x: Tensor, embedding: Tensor, backend: Backend) -> Tensor:
        """[B, F, P, C] and the time embedding [B, F, C] to [B, F, P, out * p * p]."""
        shift, scale = (self.modulation + embedding.unsqueeze(-2)).unsqueeze(-2).unbind(dim=2)
        return self.head(modulate(x, shift, scale, eps=self.eps, backend=backend))


class Backbone(nn.Module):
    """Predicts the flow (noise - clean) of noisy latents."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.is_compiled = False
        # where weights of another dtype are cast for each call, as FSDP does
        self.compute_dtype: torch.dtype | None = None
        self._swap: BlockSwap | None = None
        dim = config.dim
        patch = (1, config.patch, config.patch)
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        # `blocks` is the checkpoints' word for layers
        self.blocks = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.head = Head(config)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights in computation."""
        return self.compute_dtype or self.head.head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head.head.weight.device

    def time_context(self, timestep: Tensor) -> TimeContext:
        """Embed timesteps [B or 1, F or 1] on the scale of 0 .. 1000.

        Without gradients the layers' modulations are computed as well, because a stream comes back
        to the same few timesteps.
        """
        wave = sinusoid(timestep, self.config.freq_dim).to(self.dtype)
        embedding = self.time_embedding(wave)
        projection = self.time_projection(embedding).unflatten(-1, (6, -1))
        layers = self._layers()
        # outside of its call a layer's own weights may be elsewhere: swapped out, or sharded
        there = not self.is_offloaded and type(layers[0].modulation) is nn.Parameter
        if torch.is_grad_enabled() or not there:
            return TimeContext(embedding, projection)
        return TimeContext(
            embedding, projection, tuple(layer.modulated(projection) for layer in layers)
        )

    def text_context(self, prompt_embeds: Tensor) -> TextContext:
        """Project prompt embeddings [B, T <= text_len, text_dim] for every layer, once."""
        missing = self.config.text_len - prompt_embeds.shape[1]
        padded = functional.pad(prompt_embeds, (0, 0, 0, missing))
        padded = to_device(padded, self.device).to(self.dtype)
        text = self.text_embedding(padded)
        return tuple(layer.text_keys(text) for layer in self._visit())

    @property
    def is_offloaded(self) -> bool:
        """Whether some layers' weights lie in host memory."""
        return self._swap is not None

    def materialize(self, device: torch.device, *, offload: int = 0) -> None:
        """Allocate weights that are on the meta device; fill them, then call `bind`.

        Args:
            device: where the model will run.
            offload: layers whose weights lie in host memory; see `BlockSwap`.

        Raises:
            ConfigError: there are fewer layers.
        """
        layers = self._layers()
        swapped = [layers[index] for index in pick_layers(offload, len(layers))]
        self._swap = BlockSwap(swapped, device) if swapped else None
        materialize(self, device)

    def bind(self) -> None:
        """Switch swapped layers to buffers on the device, once all weights are filled in."""
        if self._swap:
            self._swap.bind()

    def compile_layers(self) -> None:
        """Compile each layer; they share their code, so the work is done once."""
        self.is_compiled = True
        for layer in self._layers():
            layer.compile(fullgraph=True)

    def pack_weights(self) -> None:
        """Copy the layers' weights into the CPU's own layout, where it has one.

        For a backbone that is filled, and is not compiled: torch cannot trace such a layout.
        """
        for module in self.blocks.modules():
            if isinstance(module, Linear):
                module.pack()

    def recompute_layers(self) -> None:
        """Keep only each layer's input for the backward pass, and compute the rest again there.

        What the context reads must not change in between.
        """
        for layer in self._layers():
            layer.recomputes = True

    def forward(
        self, latents: Tensor, time: TimeContext, text: TextContext, context: AttentionContext
    ) -> Tensor:
        """Predict the flow.

        Args:
            latents: noisy (or, in a context pass, clean) latents [B, F, C, h, w].
            time: from `time_context`.
            text: from `text_context`.
            context: what self-attention sees.

        Returns:
            [B, F, C, h, w] in the latents' dtype.
        """
        patch = self.config.patch
        rows = latents.shape[-2] // patch
        x = self._tokens(latents)
        for index, layer in enumerate(self._visit()):
            x = layer(x, time.layer(index), text[index], context.layer(index))
        out = self.head(x, time.embedding, context.backend)
        flow = torch.empty_like(latents)
        # as in _patches
        rearrange(flow, "b f c (y p) (x q) -> b f c y p x q", p=patch, q=patch).copy_(
            rearrange(out, "b f (y x) (p q c) -> b f c y p x q", y=rows, p=patch, q=patch)
        )
        return flow

    def write_kv(
        self, latents: Tensor, time: TimeContext, text: TextContext, context: AttentionContext
    ) -> None:
        """Only write the keys and values of every layer; see `forward`.

        The last layer stops after its keys and values, and no flow is computed.
        """
        x = self._tokens(latents)
        last = len(self.blocks) - 1
        for index, layer in enumerate(self._visit()):
            if index < last:
                x = layer(x, time.layer(index), text[index], context.layer(index))
            else:
                layer.write_kv(x, time.layer(index), context.layer(index))

    def _tokens(self, latents: Tensor) -> Tensor:
        """[B, F, C, h, w] to embedded tokens [B, F, P, dim]."""
        # kernel = stride: the convolution is a linear map of each patch
        weight = self.patch_embedding.weight.flatten(1)
        return functional.linear(self._patches(latents), weight, self.patch_embedding.bias)

    def _patches(self, latents: Tensor) -> Tensor:
        """[B, F, C, h, w] to tokens [B, F, P, C * p * q] in the weights' dtype."""
        batch, frames, channels, height, width = latents.shape
        patch = self.config.patch
        tokens = height * width // patch**2
        shape = (batch, frames, tokens, channels * patch**2)
        patches = latents.new_empty(shape, dtype=self.dtype)
        # both sides are views: one pass moves and converts
        rearrange(
            patches, "b f (y x) (c p q) -> b f c y p x q", y=height // patch, p=patch, q=patch
        ).copy_(rearrange(latents, "b f c (y p) (x q) -> b f c y p x q", p=patch, q=patch))
        return patches

    def _visit(self) -> Iterator[Layer]:
        """Yield the layers in order, each while its weights are on the device."""
        layers = self._layers()
        return self._swap.visit(layers) if self._swap else iter(layers)

    def _layers(self) -> list[Layer]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]
