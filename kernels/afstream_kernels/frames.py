"""Frames of a video codec, channels last, made ready for a convolution that is causal in time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from afstream_kernels import reference
from afstream_kernels.dispatch import AnyBackend, resolve


def norm_silu(
    x: Tensor,
    weight: Tensor,
    past: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    keep_sum: bool = False,
    backend: AnyBackend = None,
) -> tuple[Tensor, Tensor]:
    """RMSNorm over channels, then SiLU, of x + bias + residual, behind the frames before them.

    One pass over memory instead of those of a sum, a norm, an activation and a concatenation. It
    has no gradients.

    Args:
        x: [B, T, H, W, C], contiguous; becomes the sum, in place, if `keep_sum`.
        weight: [C], the norm's scale.
        past: [B, P, H, W, C], what the last call for this convolution returned; zeros at first.
        bias: [C], added to x before the norm; that of the convolution that made x.
        residual: [B, T, H, W, C], likewise.
        keep_sum: whether the sum is wanted.
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Returns:
        [B, P + T, H, W, C], past and results; and its last P frames, for the next call.

    Raises:
        ValueError: a tensor does not fit x.
    """
    channels = x.shape[-1:]
    _check_fit(
        x,
        weight=(weight, channels),
        past=(past, (x.shape[0], past.shape[1], *x.shape[2:])),
        bias=(bias, channels),
        residual=(residual, x.shape),
    )
    if not resolve(backend, x).fused:
        return reference.norm_silu(x, weight, past, bias, residual, keep_sum=keep_sum)
    op = _norm_silu_add if keep_sum else _norm_silu
    residual = None if residual is None else residual.contiguous()
    return op(x, weight, past.contiguous(), bias, residual)


def add_up(x: Tensor, bias: Tensor, residual: Tensor, *, backend: AnyBackend = None) -> None:
    """Add a bias and a residual to x, in place and in one pass; it has no gradients.

    Args:
        x: [B, T, H, W, C], contiguous, changed in place.
        bias: [C].
        residual: [B, T, H, W, C].
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Raises:
        ValueError: a tensor does not fit x.
    """
    _check_fit(x, bias=(bias, x.shape[-1:]), residual=(residual, x.shape))
    if resolve(backend, x).fused:
        _add_up(x, bias, residual.contiguous())
    else:
        reference.add_up(x, bias, residual)


def _check_fit(x: Tensor, **wanted: tuple[Tensor | None, tuple[int, ...]]) -> None:
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"x is {tuple(x.shape)} and {name} {tuple(tensor.shape)}; it must be {tuple(shape)}"
            )
    if not x.is_contiguous():
        raise ValueError(f"x is not contiguous: its strides are {x.stride()}")


@custom_op("afstream::add_up", mutates_args={"x"})
def _add_up(x: Tensor, bias: Tensor, residual: Tensor) -> None:
    from afstream_kernels.triton import frames

    frames.add_up(x, bias, residual)


@_add_up.register_fake
def _(x: Tensor, bias: Tensor, residual: Tensor) -> None:
    del x, bias, residual


@custom_op("afstream::norm_silu", mutates_args=())
def _norm_silu(
    x: Tensor, weight: Tensor, past: Tensor, bias: Tensor | None, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    from afstream_kernels.triton import frames

    return frames.norm_silu(x, weight, past, bias, residual, None)


@custom_op("afstream::norm_silu_add", mutates_args={"x"})
def _norm_silu_add(
    x: Tensor, weight: Tensor, past: Tensor, bias: Tensor | None, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    from afstream_kernels.triton import frames

    return frames.norm_silu(x, weight, past, bias, residual, x)


@_norm_silu.register_fake
@_norm_silu_add.register_fake
def _(
    x: Tensor, weight: Tensor, past: Tensor, bias: Tensor | None, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    del weight, bias, residual
    batch, num_frames, *rest = x.shape
    return x.new_empty(batch, past.shape[1] + num_frames, *rest), torch.empty_like(past)
