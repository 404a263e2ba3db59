"""Attention of one query block over slots, each at its own temporal offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from afstream_kernels import reference
from afstream_kernels.dispatch import AnyBackend, resolve
from afstream_kernels.host import device_ints
from afstream_kernels.vendor import Own, Slots, gathered_attention, slot_tensor

HEAD_DIMS = (32, 64, 128)


def slot_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Slots,
    cos: Tensor,
    sin: Tensor,
    own: Own | None = None,
    *,
    backend: AnyBackend = None,
) -> Tensor:
    """Softmax attention of one query block over slots, each at its own offset.

    Differentiable in q and `own`; slots are a cache and get no gradient. No key is moved,
    concatenated or rotated again: the query is shifted instead.

    Args:
        q: [B, T, H, D], rotated at its own positions (`norm_rope`).
        keys: [B, N, R, H, D] contiguous, all slots, each rotated at positions 0, 1, ... of
            its own chunk.
        values: like keys.
        slots: S slots to read; -1 is none. An int32 tensor on the device if a CUDA graph must read
            other slots at each replay, host integers otherwise.
        cos: [S, D / 2] from `rope_shift_tables` of the distances from each slot to the query, in
            latent frames.
        sin: [S, D / 2].
        own: keys and values [B, K, H, D] at the query's positions, outside of any slot.
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Returns:
        [B, T, H, D]; 0 where there is nothing to see. The order of slots does not matter.

    Raises:
        ValueError: shapes do not fit together, or the backend cannot run them.
    """
    chosen = resolve(backend, q)
    if chosen.name == "sdpa":
        _check(q, keys, values, slots, cos, sin, own)
        return gathered_attention(q, keys, values, slots, cos, sin, own)
    return slot_attention_lse(q, keys, values, slots, cos, sin, own, backend=chosen)[0]


def slot_attention_lse(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Slots,
    cos: Tensor,
    sin: Tensor,
    own: Own | None = None,
    *,
    num_splits: int = 0,
    backend: AnyBackend = None,
) -> tuple[Tensor, Tensor]:
    """`slot_attention` and the scores' log-sum-exp, by which parts can be merged.

    Args:
        q: see `slot_attention`.
        keys: see `slot_attention`.
        values: see `slot_attention`.
        slots: see `slot_attention`.
        cos: see `slot_attention`.
        sin: see `slot_attention`.
        own: see `slot_attention`.
        num_splits: number of parts into which Triton splits the keys, to fill a GPU; 0 chooses.
        backend: torch's own attention gives no log-sum-exp, so `sdpa` runs the twin.

    Returns:
        [B, T, H, D], and [B, H, T] in natural units, float32 at least, without gradient;
        minus infinity where there is nothing to see.

    Raises:
        ValueError: shapes do not fit together, or the backend cannot run them.
    """
    _check(q, keys, values, slots, cos, sin, own)
    if resolve(backend, q).name != "triton":
        where = slot_tensor(slots, q.device)
        out, lse = reference.slot_attention(q, keys, values, where, cos, sin, own)
        return out, lse.detach()
    if q.shape[-1] not in HEAD_DIMS:
        raise ValueError(f"head dim is {q.shape[-1]}; on Triton it must be one of {HEAD_DIMS}")
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("keys or values are not contiguous; on Triton slots are read in place")
    where, host_slots = (slots, ()) if isinstance(slots, Tensor) else (None, slots)
    out, lse = _attend(
        q, keys, values, where, host_slots, cos, sin, *(own or (None, None)), num_splits
    )
    return out, lse.detach()


def _check(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Slots,
    cos: Tensor,
    sin: Tensor,
    own: Own | None,
) -> None:
    wanted = (q.shape[0], *keys.shape[1:3], *q.shape[2:])
    if keys.shape != wanted or values.shape != wanted:
        raise ValueError(
            f"q is {tuple(q.shape)}, keys {tuple(keys.shape)} and values {tuple(values.shape)};"
            " they must be [B, T, H, D] and twice [B, N, R, H, D]"
        )
    table = len(slots), q.shape[-1] // 2
    if not cos.shape == sin.shape == table:
        raise ValueError(
            f"{len(slots)} slots of head dim {q.shape[-1]}, and tables {tuple(cos.shape)} and"
            f" {tuple(sin.shape)}; both must be {table}"
        )
    if own is not None and not own[0].shape == own[1].shape == (
        q.shape[0],
        own[0].shape[1],
        *q.shape[2:],
    ):
        raise ValueError(
            f"own keys are {tuple(own[0].shape)} and values {tuple(own[1].shape)};"
            f" both must be [B, K, H, D] with the query's {tuple(q.shape)}"
        )


@custom_op("afstream::slot_attention", mutates_args=())
def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor | None,
    host_slots: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    own_keys: Tensor | None,
    own_values: Tensor | None,
    num_splits: int,
) -> tuple[Tensor, Tensor]:
    from afstream_kernels.triton import attention

    where = device_ints(tuple(host_slots), q.device) if slots is None else slots
    own = None
    if own_keys is not None and own_values is not None:
        own = _as_slot(own_keys, own_values)
    q = q.contiguous()
    return attention.forward(q, keys, values, where, cos, sin, own, num_splits=num_splits)


@_attend.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    batch, num_tokens, num_heads = q.shape[:3]
    lse = q.new_empty(batch, num_heads, num_tokens, dtype=torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@custom_op("afstream::slot_attention_backward", mutates_args=())
def _attend_backward(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor | None,
    host_slots: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    own_keys: Tensor | None,
    own_values: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    from afstream_kernels.triton import attention_backward as backward

    where = device_ints(tuple(host_slots), q.device) if slots is None else slots
    q, grad = q.contiguous(), grad.contiguous()
    delta = torch.einsum("bthd,bthd->bht", out.float(), grad.float()).contiguous()
    to_q = torch.zeros_like(q, dtype=torch.float32)
    if where.shape[0]:
        backward.to_queries(q, keys, values, where, (cos, sin), grad, lse, delta, to_q)
    to_own = q.new_empty(0), q.new_empty(0)
    if own_keys is not None and own_values is not None:
        held, seen, one, *tables = _as_slot(own_keys, own_values)
        backward.to_queries(q, held, seen, one, (tables[0], tables[1]), grad, lse, delta, to_q)
        to_own = backward.to_own(
            q, own_keys.contiguous(), own_values.contiguous(), grad, lse, delta
        )
    return to_q.to(q.dtype), *to_own


@_attend_backward.register_fake
def _(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor | None,
    host_slots: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    own_keys: Tensor | None,
    own_values: Tensor | None,
    *_: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    del keys, values, slots, host_slots, cos, sin
    to_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    if own_keys is None or own_values is None:
        return to_q, q.new_empty(0), q.new_empty(0)
    return (
        to_q,
        torch.empty_like(own_keys, memory_format=torch.contiguous_format),
        torch.empty_like(own_values, memory_format=torch.contiguous_format),
    )


def _as_slot(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Keys and values [B, K, H, D] as a pool with one slot, read without a shift."""
    still = keys.new_zeros(1, keys.shape[-1] // 2, dtype=torch.float32)
    first = torch.zeros(1, dtype=torch.int32, device=keys.device)
    return keys.contiguous()[:, None], values.contiguous()[:, None], first, still + 1, still


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    q, keys, values, slots, ctx.host_slots, *tensors, _ = inputs
    ctx.save_for_backward(q, keys, values, slots, *tensors, *output)
    ctx.set_materialize_grads(False)


def _go_back(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    q, keys, values, slots, *tensors, own_keys, own_values, out, lse = ctx.saved_tensors
    nothing = (None,) * 10
    if grad is None:
        return nothing
    to_q, *to_own = _attend_backward(
        q, keys, values, slots, ctx.host_slots, *tensors, own_keys, own_values, out, lse, grad
    )
    if own_keys is None:
        return to_q, *nothing[1:]
    return to_q, *nothing[1:7], *to_own, None


_attend.register_autograd(_go_back, setup_context=_keep)
