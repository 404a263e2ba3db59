"""Torch's own attention, over contiguous keys and over slots that are gathered first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional
from torch.nn.attention import (
    SDPBackend,
    _cur_sdpa_kernel_backends,  # pyright: ignore[reportPrivateUsage]  no public way tells it
    sdpa_kernel,
)

from afstream_kernels import reference
from afstream_kernels.dispatch import runs_as_on_gpu

Slots = Tensor | Sequence[int]
Own = tuple[Tensor, Tensor]

VENDOR_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def vendor_attention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Torch's own attention over contiguous keys, on a GPU in the chip's fastest version.

    Args:
        q: [B, T, H, D].
        keys: [B, K, H, D]; values likewise.
        values: see keys.
        mask: [T, K], true where a query may attend; None is everywhere.

    Returns:
        [B, T, H, D].
    """
    # the operator has no gradient, and not every version takes a mask
    if runs_as_on_gpu(q) and mask is None and not torch.is_grad_enabled():
        return _vendor(q, keys, values)
    return _plain_attention(q, keys, values, mask)


def _plain_attention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in (q, keys, values))
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2)


@cache
def attention_order(device: torch.device) -> tuple[str, ...]:
    """The versions of attention that torch tries on a device, in its own order.

    Torch settles that order, by chip and cuDNN, with the first call in a process. A context around
    that call would bring back the unsettled order, flash first, for all others in the process.
    """
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float16, device=device)
    functional.scaled_dot_product_attention(x, x, x)
    return tuple(one.name for one in _cur_sdpa_kernel_backends(with_priority=True))


@custom_op("afstream::vendor_attention", mutates_args=())
def _vendor(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    # flash, which torch puts first on many chips, is written for Ampere; cuDNN knows newer ones
    cudnn_first = attention_order(q.device)[0] == SDPBackend.CUDNN_ATTENTION.name
    with nullcontext() if cudnn_first else sdpa_kernel(VENDOR_ORDER, set_priority=True):
        return _plain_attention(q, keys, values).contiguous()


@_vendor.register_fake
def _(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    del keys, values
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def gathered_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Slots,
    cos: Tensor,
    sin: Tensor,
    own: Own | None,
) -> Tensor:
    """`slot_attention` by torch's own attention: gather the slots, shift the keys."""
    mask: Tensor | None = None
    if isinstance(slots, Tensor):
        # only the device knows which slots are valid
        mask = (slots >= 0).repeat_interleave(keys.shape[2])[None]
        held, seen = (reference.read_slots(x, slots) for x in (keys, values))
    else:
        there = [index for index, slot in enumerate(slots) if slot >= 0]
        where = slot_tensor([slots[index] for index in there], q.device)
        if len(there) < len(slots):
            cos, sin = cos[there], sin[there]
        held, seen = (x.index_select(1, where) for x in (keys, values))
    held = reference.apply_rope(held, cos[:, None, None], -sin[:, None, None])
    held, seen = held.flatten(1, 2), seen.flatten(1, 2)
    if own is not None:
        held, seen = torch.cat([own[0], held], dim=1), torch.cat([own[1], seen], dim=1)
        if mask is not None:
            mask = functional.pad(mask, (own[0].shape[1], 0), value=True)
    if not held.shape[1]:
        return torch.zeros_like(q)
    return vendor_attention(q, held, seen, mask)


def slot_tensor(slots: Slots, device: torch.device) -> Tensor:
    """Slots as int32 [S] on the device."""
    if isinstance(slots, Tensor):
        return slots
    return torch.tensor(slots, dtype=torch.int32, device=device)
