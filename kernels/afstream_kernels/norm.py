"""Norms fused with what follows: RoPE and the write into a slot, or modulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from afstream_kernels import reference
from afstream_kernels.dispatch import AnyBackend, resolve


def norm_rope(
    x: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    num_heads: int,
    eps: float,
    backend: AnyBackend = None,
) -> Tensor:
    """RMSNorm over all heads together, split into heads, rotate; differentiable in x and weight.

    Args:
        x: [B, T, C], a projection.
        weight: [C], the norm's scale.
        cos: [T, D / 2] from `rope_tables`.
        sin: [T, D / 2].
        num_heads: H; C = H * D.
        eps: added to the mean square.
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Returns:
        [B, T, H, D].

    Raises:
        ValueError: the tables do not fit.
    """
    _check_tables(x, cos, sin, num_heads)
    if not resolve(backend, x).fused:
        return reference.norm_rope(x, weight, cos, sin, num_heads=num_heads, eps=eps)
    return _norm_rope(x, weight, cos, sin, num_heads, eps)


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
    backend: AnyBackend = None,
) -> Tensor:
    """`norm_rope` of q and of k in one launch; q is returned, k goes straight into slots.

    Args:
        q: [B, T, C], a projection.
        k: [B, len(slots) * R, C], a projection.
        q_weight: [C], scale of the query norm.
        k_weight: [C], scale of the key norm.
        cos: [T, D / 2] from `rope_tables`, T >= R; a slot's keys use the first R rows.
        sin: [T, D / 2].
        keys: [B, N, R, H, D] contiguous, changed in place.
        slots: the slot into which each R keys are written.
        eps: added to the mean squares.
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Returns:
        [B, T, H, D].

    Raises:
        ValueError: keys or tables do not fit.
    """
    num_tokens, num_heads = keys.shape[2:4]
    _check_tables(q, cos, sin, num_heads)
    if k.shape[1] != len(slots) * num_tokens:
        raise ValueError(
            f"k has {k.shape[1]} tokens for {len(slots)} slots of {num_tokens};"
            f" it must have {len(slots) * num_tokens}"
        )
    if not resolve(backend, q).fused:
        return reference.norm_rope_write(q, k, q_weight, k_weight, cos, sin, keys, slots, eps=eps)
    return _norm_rope_write(q, k, q_weight, k_weight, cos, sin, keys, slots, eps)


def modulate(
    x: Tensor, shift: Tensor, scale: Tensor, *, eps: float, backend: AnyBackend = None
) -> Tensor:
    """LayerNorm without affine, then `* (1 + scale) + shift`, in one pass over x.

    Where gradients are wanted, the twin runs.

    Args:
        x: [B, F, P, C].
        shift: [B or 1, F or 1, 1, C].
        scale: likewise.
        eps: added to the variance.
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Returns:
        [B, F, P, C].
    """
    wants_grad = torch.is_grad_enabled() and any(y.requires_grad for y in (x, shift, scale))
    if wants_grad or not resolve(backend, x).fused:
        return reference.modulate(x, shift, scale, eps=eps)
    return _modulate(x, shift, scale, eps)


def _check_tables(x: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> None:
    wanted = x.shape[1], x.shape[2] // num_heads // 2
    if not cos.shape == sin.shape == wanted:
        raise ValueError(
            f"x is {tuple(x.shape)} with {num_heads} heads, and the tables {tuple(cos.shape)}"
            f" and {tuple(sin.shape)}; both must be {wanted}"
        )


@custom_op("afstream::norm_rope", mutates_args=())
def _norm_rope(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float
) -> Tensor:
    from afstream_kernels.triton import norm

    return norm.norm_rope(x.contiguous(), weight, cos, sin, num_heads, eps)


@_norm_rope.register_fake
def _(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float) -> Tensor:
    del weight, cos, sin, eps
    return x.new_empty(*x.shape[:2], num_heads, x.shape[2] // num_heads)


@custom_op("afstream::norm_rope_backward", mutates_args=())
def _norm_rope_backward(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, grad: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from afstream_kernels.triton import norm

    return norm.norm_rope_backward(x.contiguous(), weight, cos, sin, grad.contiguous(), eps)


@_norm_rope_backward.register_fake
def _(x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    del output
    *tensors, _, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _go_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    to_x, to_weight = _norm_rope_backward(*ctx.saved_tensors, grad, ctx.eps)
    return to_x, to_weight, None, None, None, None


_norm_rope.register_autograd(_go_back, setup_context=_keep)


@custom_op("afstream::norm_rope_write", mutates_args={"keys"})
def _norm_rope_write(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    slots: Sequence[int],
    eps: float,
) -> Tensor:
    from afstream_kernels.triton import norm

    return norm.norm_rope_write(
        q.contiguous(), k.contiguous(), q_weight, k_weight, cos, sin, keys, slots, eps
    )


@_norm_rope_write.register_fake
def _(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    slots: Sequence[int],
    eps: float,
) -> Tensor:
    del k, q_weight, k_weight, cos, sin, slots, eps
    return q.new_empty(*q.shape[:2], *keys.shape[3:])


@custom_op("afstream::modulate", mutates_args=())
def _modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    from afstream_kernels.triton import norm

    return norm.modulate(x.contiguous(), shift, scale, eps)


@_modulate.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    del shift, scale, eps
    return torch.empty_like(x, memory_format=torch.contiguous_format)
