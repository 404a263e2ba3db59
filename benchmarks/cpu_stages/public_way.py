"""A backbone's passes as public streaming code makes them, on the weights of ours.

Per pass: embed the timesteps. Per layer: add the modulation, norm and modulate in separate steps,
clone the cached window, put the block's keys behind it, rotate all keys and the query anew in
complex128. A context pass and a re-cache compute the flow as well. Written to be kind to it: the
tables of angles are ready, a prompt's keys are projected once, and nothing is read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from afstream.model.dit import Backbone, TextContext
from afstream.model.layers import Layer, TextKeys
from afstream_kernels import rope_tables
from kernel_bench.public import Tables, rotate_complex128, sdpa


@dataclass(frozen=True, slots=True)
class PublicCall:
    """One block of tokens and the cached chunks that it sees besides itself.

    Attributes:
        keys: [L, B, K, H, D], not rotated; values likewise.
        values: see keys.
        query: angles [T, 1, D / 2] of the block, float64.
        window: angles [K + T, 1, D / 2] of the cached keys, then of the block's.
    """

    keys: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    query: Tables = field(repr=False)
    window: Tables = field(repr=False)

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        cached: tuple[int, ...],
        block: tuple[int, ...],
        grid: tuple[int, int, int],
    ) -> PublicCall:
        """Random keys and values at the temporal positions of cached chunks.

        Args:
            backbone: says the sizes.
            cached: position of each cached chunk.
            block: position of each chunk of the block.
            grid: latent frames, rows and columns of tokens of a chunk.
        """
        config = backbone.config
        tokens = grid[0] * grid[1] * grid[2] * len(cached)
        shape = (config.num_layers, 1, tokens, config.num_heads, config.head_dim)
        keys, values = (torch.randn(shape, dtype=backbone.dtype) for _ in range(2))

        def tables(starts: tuple[int, ...]) -> Tables:
            pairs = [
                rope_tables(at, grid=grid, head_dim=config.head_dim, dtype=torch.float64)
                for at in starts
            ]
            cos, sin = (torch.cat(part)[:, None] for part in zip(*pairs, strict=True))
            return cos, sin

        return cls(keys, values, tables(block), tables((*cached, *block)))


def forward(
    backbone: Backbone, latents: Tensor, timestep: float, text: TextContext, call: PublicCall
) -> Tensor:
    """Predict the flow of latents [1, F, C, h, w], as [1, F, P, out]."""
    steps = torch.full(latents.shape[:2], timestep)
    with torch.enable_grad():
        # with gradients on nothing is computed beforehand
        time = backbone.time_context(steps)
    embedding, projection = time.embedding.detach(), time.projection.detach()
    x = backbone._tokens(latents)  # pyright: ignore[reportPrivateUsage]
    for index, layer in enumerate(backbone.blocks):
        assert isinstance(layer, Layer)  # noqa: S101  our own mistake
        x = _layer(layer, x, projection, text[index], call, index)
    head = backbone.head
    shift, scale = (head.modulation[None] + embedding[:, :, None]).chunk(2, dim=2)
    return head.head(functional.layer_norm(x, x.shape[-1:], eps=head.eps) * (1 + scale) + shift)


def _layer(
    layer: Layer, x: Tensor, time: Tensor, text: TextKeys, call: PublicCall, index: int
) -> Tensor:
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (layer.modulation[None] + time).chunk(
        6, dim=2
    )
    width = x.shape[-1:]
    normed = functional.layer_norm(x, width, eps=layer.eps) * (1 + scale) + shift
    x = x + _self_attention(layer, normed, call, index) * gate
    x = x + layer.cross_attn(layer.norm3(x), text)
    normed = functional.layer_norm(x, width, eps=layer.eps) * (1 + ffn_scale) + ffn_shift
    return x + layer.ffn(normed) * ffn_gate


def _self_attention(layer: Layer, x: Tensor, call: PublicCall, index: int) -> Tensor:
    part, tokens = layer.self_attn, x.flatten(1, 2)
    query, key = (
        _rms_norm(project(tokens), norm.weight, part.eps).unflatten(-1, (part.num_heads, -1))
        for project, norm in ((part.q, part.norm_q), (part.k, part.norm_k))
    )
    keys = torch.cat([call.keys[index].clone(), key], dim=1)
    value = part.v(tokens).view_as(key)
    values = torch.cat([call.values[index].clone(), value], dim=1)
    out = sdpa(rotate_complex128(query, call.query), rotate_complex128(keys, call.window), values)
    return part.o(out.flatten(-2)).view_as(x)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).type_as(x) * weight
