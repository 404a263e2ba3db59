"""The PyTorch twins: what each operation means, in any float dtype, differentiable.

Dimension letters: B batch, T tokens of the query block, H heads, D head dim, C = H * D, F latent
frames, N slots, R tokens of a slot, S slots that are read. A *slot* holds the keys and values of
one chunk, keys rotated at temporal positions 0, 1, ... of their own chunk. A *block table* lists
the slots that one query block reads, each with an offset in time by which the query is shifted (the
RoPE shift).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

ROPE_BASE = 10000.0
# a shorter vector is not brought to unit length (torch.nn.functional.normalize)
SMALLEST_LENGTH = 1e-12


def axis_pairs(head_dim: int) -> tuple[int, int]:
    """How many of a head's D / 2 pairs rotate with time, and how many with rows (or columns)."""
    spatial = head_dim // 2 // 3
    return head_dim // 2 - 2 * spatial, spatial


def frequencies(num_pairs: int) -> Tensor:
    """Radians per position of each pair of one axis [num_pairs], float64: 10000^(-i / n)."""
    return ROPE_BASE ** (-torch.arange(num_pairs, dtype=torch.float64) / max(num_pairs, 1))


def rope_tables(
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
    temporal, spatial = axis_pairs(head_dim)
    axes = (
        (torch.arange(start, start + frames), temporal, (frames, 1, 1)),
        (torch.arange(rows), spatial, (1, rows, 1)),
        (torch.arange(columns), spatial, (1, 1, columns)),
    )
    angles: list[Tensor] = []
    for positions, width, shape in axes:
        angle = positions.double()[:, None] * frequencies(width)
        angles.append(angle.reshape(*shape, width).expand(*grid, width))
    table = torch.cat(angles, dim=-1).reshape(-1, head_dim // 2)
    return table.cos().to(dtype), table.sin().to(dtype)


def rope_shift_tables(
    offsets: Sequence[int], *, head_dim: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """RoPE shifts: cosines and sines that move a whole rotated block by each offset in time.

    Rotations add up: what was rotated at temporal position p and is shifted by o stands at
    p + o, whatever its row and column. So one row of D/2 values serves all tokens.

    Args:
        offsets: S temporal distances, latent frames; may be negative.
        head_dim: D, even.
        dtype: of the tables; float32 or float64. Angles are made in float64.

    Returns:
        Two tensors [S, D / 2]; the pairs of rows and columns stay as they are.
    """
    temporal, spatial = axis_pairs(head_dim)
    moved = torch.tensor(offsets, dtype=torch.float64)[:, None] * frequencies(temporal)
    angles = functional.pad(moved, (0, 2 * spatial))
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i + 1) of x [..., D] by tables, broadcast to [..., D / 2].

    Computed in the tables' dtype, returned in x's.
    """
    return _turn(x, torch.complex(cos, sin))


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate x [..., D] by cos + i sin, broadcast to [..., D / 2]; see `apply_rope`."""
    # one complex product instead of four real ones: on a CPU the number of passes counts
    dtype = torch.float64 if turns.dtype == torch.complex128 else torch.float32
    wide = x.to(dtype).unflatten(-1, (-1, 2)).contiguous()
    return torch.view_as_real(torch.view_as_complex(wide) * turns).flatten(-2).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale x [..., C] to unit root mean square over C, then by weight [C].

    Statistics in float32 at least.
    """
    return functional.rms_norm(x, weight.shape, weight, eps)


def norm_rope(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, *, num_heads: int, eps: float
) -> Tensor:
    """RMSNorm over all heads together, split into heads, rotate: [B, T, C] -> [B, T, H, D].

    Args:
        x: [B, T, C], a projection.
        weight: [C], the norm's scale.
        cos: [T, D / 2] table.
        sin: [T, D / 2] table.
        num_heads: H.
        eps: added to the mean square.
    """
    heads = rms_norm(x, weight, eps).unflatten(-1, (num_heads, -1))
    return apply_rope(heads, cos[:, None], sin[:, None])


def norm_rope_write(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    slots: Sequence[int],
    *,
    eps: float,
) -> Tensor:
    """`norm_rope` of q and of k; q is returned, k goes into slots, one after the other.

    Args:
        q: [B, T, C], a projection.
        k: [B, len(slots) * R, C], a projection.
        q_weight: [C], scale of the query norm.
        k_weight: [C], scale of the key norm.
        cos: [T, D / 2] table, T >= R; a slot's keys use its first R rows.
        sin: [T, D / 2] table.
        keys: [B, N, R, H, D], changed in place.
        slots: the slot into which each R keys are written.
        eps: added to the mean squares.

    Returns:
        [B, T, H, D].
    """
    # one table and one pass over the heads for all: on a CPU the number of operators counts
    turns = torch.complex(cos, sin)[:, None]
    normed = rms_norm(k, k_weight, eps).view(k.shape[0], len(slots), *keys.shape[2:])
    turned = _turn(normed, turns[: keys.shape[2]])
    for index, slot in enumerate(slots):
        keys[:, slot] = turned[:, index]
    return _turn(rms_norm(q, q_weight, eps).unflatten(-1, keys.shape[3:]), turns)


def read_slots(x: Tensor, slots: Tensor) -> Tensor:
    """Slots of x [B, N, R, H, D] in the given order: [B, S, R, H, D], zeros where there is none."""
    # a weight of 0 is not enough: slot 0 stands in for -1, and may hold NaN before it is written
    none = (slots < 0)[:, None, None, None]
    return x.index_select(1, slots.clamp(min=0)).masked_fill(none, 0)


def slot_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    cos: Tensor,
    sin: Tensor,
    own: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of one query block over slots, each at its own offset.

    Entry s is scored with the query shifted by row s of the tables, so keys that were rotated once,
    when they were written, can be read at any distance as they are.

    Args:
        q: [B, T, H, D], rotated at its own positions.
        keys: [B, N, R, H, D], all slots; values likewise.
        values: see keys.
        slots: int32 [S], the slot of each entry; -1 is none.
        cos: [S, D / 2], from `rope_shift_tables`.
        sin: [S, D / 2].
        own: keys and values [B, K, H, D] at the query's positions, outside of any slot.

    Returns:
        [B, T, H, D], and the scores' log-sum-exp [B, H, T] in float32 at least. With nothing
        to see the output is 0 and the log-sum-exp minus infinity.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    shifted = apply_rope((q * scale)[:, None], cos[:, None, None], sin[:, None, None])
    scores = torch.einsum("bsthd,bsrhd->bhtsr", shifted, read_slots(keys, slots))
    scores = scores.masked_fill((slots < 0)[:, None], -math.inf).flatten(-2)
    seen = read_slots(values, slots).flatten(1, 2)
    if own is not None:
        scores = torch.cat([torch.einsum("bthd,bkhd->bhtk", q * scale, own[0]), scores], dim=-1)
        seen = torch.cat([own[1], seen], dim=1)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    lse = wide.logsumexp(dim=-1)
    # nothing seen: exp(-inf - -inf) would be NaN
    weights = (wide - lse.clamp(min=torch.finfo(lse.dtype).min)[..., None]).exp()
    return torch.einsum("bhtk,bkhd->bthd", weights.to(q.dtype), seen), lse


def copy_slots(
    keys: Tensor,
    values: Tensor,
    to_keys: Tensor,
    to_values: Tensor,
    sources: Sequence[int],
    targets: Sequence[int],
    shift: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Copy slots of all layers, keys and values, into slots of other buffers.

    Args:
        keys: [L, B, N, R, H, D]; values likewise.
        values: see keys.
        to_keys: [L, B, M, R, H, D] of any float dtype, changed in place; to_values likewise.
        to_values: see to_keys.
        sources: P slots to copy.
        targets: P slots to copy them to.
        shift: tables [P, D / 2] by which the keys are moved in time on the way.
    """
    for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
        moved = keys[:, :, source]
        if shift is not None:
            moved = apply_rope(moved, shift[0][index], shift[1][index])
        to_keys[:, :, target] = moved
        to_values[:, :, target] = values[:, :, source]


def modulate(x: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
    """LayerNorm without affine, then scale and shift.

    Args:
        x: [B, F, P, C].
        shift: [B or 1, F or 1, 1, C].
        scale: likewise; 0 leaves the norm as it is.
        eps: added to the variance.
    """
    gain, width = 1 + scale, x.shape[-1:]
    if shift.numel() == scale.numel() == width.numel():
        # the same for all tokens, as in every stream: the norm's own scale and bias
        return functional.layer_norm(x, width, gain.view(width), shift.reshape(width), eps)
    return torch.addcmul(shift, functional.layer_norm(x, width, eps=eps), gain)


def channel_norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm over the channels of x [..., C], scaled by weight [C]; in float32 at least.

    Written as by Wan's codec: unit length times sqrt(C), without an addition to the mean square.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    unit = functional.normalize(wide, dim=-1, eps=SMALLEST_LENGTH)
    return unit.mul_(weight.to(wide.dtype) * math.sqrt(x.shape[-1]))


def add_up(x: Tensor, bias: Tensor, residual: Tensor) -> None:
    """Add a bias [C] and a residual [..., C] to x [..., C], in place."""
    x.copy_((x if x.dtype == torch.float64 else x.float()) + bias + residual)


def norm_silu(
    x: Tensor,
    weight: Tensor,
    past: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    keep_sum: bool = False,
) -> tuple[Tensor, Tensor]:
    """RMSNorm over channels and SiLU of x + bias + residual, behind the frames before them.

    Args:
        x: [B, T, H, W, C]; becomes the sum, in place, if `keep_sum`.
        weight: [C], the norm's scale.
        past: [B, P, H, W, C].
        bias: [C].
        residual: [B, T, H, W, C].
        keep_sum: whether the sum is wanted.

    Returns:
        [B, P + T, H, W, C], past and results; and its last P frames.
    """
    total = x if x.dtype == torch.float64 else x.float()
    for part in (bias, residual):
        total = total if part is None else total + part
    if keep_sum:
        x.copy_(total)
    batch, num_frames, *rest = x.shape
    frames = x.new_empty(batch, past.shape[1] + num_frames, *rest)
    frames[:, : past.shape[1]] = past
    frames[:, past.shape[1] :] = functional.silu(channel_norm(total, weight), inplace=True)
    return frames, frames[:, num_frames:].clone(memory_format=torch.contiguous_format)
