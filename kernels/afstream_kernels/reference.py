"""The PyTorch twins: what each operation means, in any float dtype, differentiable.

Dimension letters: B batch, T tokens, H heads, D head dim, F latent frames, S segments.
A *segment* is one block of keys and values that lies together in memory and is read
with one rotation of the query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROPE_BASE = 10000.0


def rotation_tables(
    start: int, *, grid: tuple[int, int, int], head_dim: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of three-dimensional RoPE for one block of tokens.

    Of the head's D/2 pairs, rows and columns take a third each (rounded down), time the
    rest; every axis has its own frequencies, base 10,000. Angles are made in float64.

    Args:
        start: temporal position of the block's first latent frame; may be negative.
        grid: latent frames, rows and columns of tokens (F, R, C).
        head_dim: D, even.
        dtype: of the tables; float32 or float64.

    Returns:
        Two tensors [F * R * C, D / 2], tokens in (frame, row, column) order.
    """
    frames, rows, columns = grid
    pairs = head_dim // 2
    spatial = pairs // 3
    axes = (
        (torch.arange(start, start + frames), pairs - 2 * spatial, (frames, 1, 1)),
        (torch.arange(rows), spatial, (1, rows, 1)),
        (torch.arange(columns), spatial, (1, 1, columns)),
    )
    angles: list[Tensor] = []
    for positions, width, shape in axes:
        frequencies = ROPE_BASE ** (-torch.arange(width, dtype=torch.float64) / max(width, 1))
        angle = positions.double()[:, None] * frequencies
        angles.append(angle.reshape(*shape, width).expand(*grid, width))
    table = torch.cat(angles, dim=-1).reshape(-1, pairs)
    return table.cos().to(dtype), table.sin().to(dtype)


def apply_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i + 1) of x [..., T, D] by tables [..., T, D/2].

    Computed in the tables' dtype, returned in x's.
    """
    # one complex product instead of four real ones: on a CPU the number of passes counts
    pairs = torch.view_as_complex(x.to(cos.dtype).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale x [..., C] to unit root mean square over C, then by weight [C].

    Statistics in float32 at least.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


def norm_rotate(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, *, num_heads: int, eps: float
) -> Tensor:
    """RMSNorm over all heads together, split into heads, rotate.

    Args:
        x: [B, T, H * D], a projection.
        weight: [H * D], the norm's scale.
        cos: [T, D / 2] table.
        sin: [T, D / 2] table.
        num_heads: H.
        eps: added to the mean square.

    Returns:
        [B, H, T, D].
    """
    heads = rms_norm(x, weight, eps).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return apply_rotation(heads, cos, sin)


def segment_attention(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], cos: Tensor, sin: Tensor
) -> Tensor:
    """Softmax attention of one query block over key segments, each under its own rotation.

    Segment s is scored with the query rotated by table s: keys that were rotated once at
    positions of their own are thus read at any distance without being touched.

    Args:
        q: [B, H, T, D], not rotated.
        keys: S tensors [B, H, T_s, D], rotated when they were written.
        values: S tensors [B, H, T_s, D].
        cos: [S, T, D / 2], the query's table for each segment.
        sin: [S, T, D / 2].

    Returns:
        [B, H, T, D]. The order of the segments does not matter.

    Raises:
        ValueError: no segment, or the numbers of keys, values and tables differ.
    """
    if not keys or not len(keys) == len(values) == cos.shape[0] == sin.shape[0]:
        raise ValueError(
            f"{len(keys)} keys, {len(values)} values and {cos.shape[0]} rotation tables;"
            " all three must be the same number, at least one"
        )
    scale = 1 / math.sqrt(q.shape[-1])
    rotated = apply_rotation((q * scale)[None], cos[:, None, None], sin[:, None, None])
    scores = torch.cat([query @ key.mT for query, key in zip(rotated, keys, strict=True)], dim=-1)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    weights = wide.softmax(dim=-1).to(q.dtype).split([key.shape[-2] for key in keys], dim=-1)
    out = weights[0] @ values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        out = out + weight @ value
    return out
