"""LayerNorm with modulation, and RMSNorm with rotation: written into a slot, and in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional

from afstream_kernels import (
    modulate,
    norm_rope,
    norm_rope_write,
    reference,
    rms_norm,
    rope_tables,
)
from kernel_bench.case import KernelCase, KernelSettings, Op, forward, forward_backward, in_float64
from kernel_bench.public import ROTATIONS
from kernel_bench.report import NORM_WRITE
from kernel_bench.sizes import CHUNK_FRAMES, NUM_SLOTS

EPS = 1e-6
ROUNDINGS = 2
# The slot that is written.
SLOT = 2
TABLE_VALUE_BYTES = 4


def modulation_case(settings: KernelSettings) -> KernelCase:
    """LayerNorm and modulation of one chunk."""
    shape = settings.shape

    def modulated(op: Callable[..., Tensor]) -> Op:
        return lambda i: (op(i.x, i.shift, i.scale, eps=EPS),)

    def eager(i: SimpleNamespace) -> Tensor:
        normed = functional.layer_norm(i.x.float(), i.x.shape[-1:], eps=EPS).to(i.x.dtype)
        return normed * (1 + i.scale) + i.shift

    def make_inputs() -> SimpleNamespace:
        """Tokens x [1, F, P, C] of a chunk, shift and scale [1, F, 1, C] of its frames."""
        randn, vector = settings.draw(), (1, CHUNK_FRAMES, 1, shape.width)
        x = randn(1, CHUNK_FRAMES, shape.rows * shape.columns, shape.width)
        return SimpleNamespace(x=x, shift=randn(*vector), scale=randn(*vector))

    twin = modulated(reference.modulate)
    return KernelCase(
        name="LayerNorm + modulation",
        about=f"{shape.chunk_tokens} tokens of {shape.width}",
        make_inputs=make_inputs,
        ops=settings.ours(lambda backend: modulated(partial(modulate, backend=backend))),
        expected=lambda i: twin(in_float64(i)),
        alternatives={
            "eager, LayerNorm in float32": forward(eager),
            "eager twin": twin,
            **settings.through_compile({"twin": twin}),
        },
        moved_bytes=2 * _activation_bytes(settings),
        tolerance=settings.tolerance(ROUNDINGS),
    )


def norm_write_case(settings: KernelSettings) -> KernelCase:
    """Queries and keys of one layer; the keys go into a slot."""
    shape = settings.shape

    def written(op: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> Op:
        def run(i: SimpleNamespace) -> tuple[Tensor, Tensor]:
            tensors = i.q, i.k, i.q_weight, i.k_weight, *i.tables[dtype]
            return op(*tensors, i.keys, [SLOT], eps=EPS), i.keys

        return run

    def eager(rotation: str) -> Op:
        def run(i: SimpleNamespace) -> tuple[Tensor, Tensor]:
            i.keys[:, SLOT] = _eager(i.k, i.k_weight, i, rotation)
            return _eager(i.q, i.q_weight, i, rotation), i.keys

        return run

    twin = reference.norm_rope_write
    return KernelCase(
        name=NORM_WRITE,
        about=f"q and k of one layer, {shape.chunk_tokens} tokens of {shape.width}",
        make_inputs=partial(_norm_inputs, settings),
        ops=settings.ours(lambda backend: written(partial(norm_rope_write, backend=backend))),
        expected=lambda i: written(twin, torch.float64)(in_float64(i)),
        alternatives={
            **{f"eager, {name} RoPE": eager(name) for name in ROTATIONS},
            **settings.through_compile({"float32 RoPE": eager("float32"), "twin": written(twin)}),
        },
        # q and k in, q and k out
        moved_bytes=4 * _activation_bytes(settings) + _table_bytes(settings),
        tolerance=settings.tolerance(ROUNDINGS),
        poison=lambda i: i.keys[:, SLOT].fill_(torch.nan),
    )


def norm_training_case(settings: KernelSettings) -> KernelCase:
    """Queries of one layer, forward and backward."""
    shape = settings.shape

    def rotated(
        op: Callable[..., Tensor], dtype: torch.dtype = torch.float32
    ) -> Callable[[SimpleNamespace], Tensor]:
        return lambda i: op(i.q, i.q_weight, *i.tables[dtype], num_heads=shape.num_heads, eps=EPS)

    def eager(i: SimpleNamespace) -> Tensor:
        return _eager(i.q, i.q_weight, i, "float32")

    twin = forward_backward(rotated(reference.norm_rope, torch.float64))
    others = {
        "eager, float32 RoPE": eager,
        **settings.through_compile({"float32 RoPE": eager}),
    }
    return KernelCase(
        name="norm + RoPE, training",
        about=f"forward and backward, q of one layer, {shape.chunk_tokens} tokens of {shape.width}",
        make_inputs=partial(_norm_inputs, settings),
        ops=settings.ours(
            lambda backend: forward_backward(rotated(partial(norm_rope, backend=backend)))
        ),
        expected=lambda i: twin(in_float64(i)),
        alternatives={name: forward_backward(way) for name, way in others.items()},
        # forward in and out; backward input and gradient in, gradient out
        moved_bytes=5 * _activation_bytes(settings) + 2 * _table_bytes(settings),
        tolerance=settings.tolerance(ROUNDINGS),
    )


def _norm_inputs(settings: KernelSettings) -> SimpleNamespace:
    """One layer's projections.

    q and k [B, T, C], their weights [C], keys [B, N, R, H, D] of all slots, grad [B, T, H, D],
    and the tables of cosines and sines [T, D / 2] by dtype.
    """
    shape, randn = settings.shape, settings.draw()
    tokens = 1, shape.chunk_tokens
    return SimpleNamespace(
        q=randn(*tokens, shape.width).requires_grad_(),
        k=randn(*tokens, shape.width),
        q_weight=randn(shape.width).requires_grad_(),
        k_weight=randn(shape.width),
        tables={
            dtype: settings.on_device(
                rope_tables(0, grid=shape.grid, head_dim=shape.head_dim, dtype=dtype)
            )
            for _, dtype in ROTATIONS.values()
        },
        keys=randn(1, NUM_SLOTS, shape.chunk_tokens, *shape.heads),
        grad=randn(*tokens, *shape.heads),
        wanted=("q", "q_weight"),
    )


def _eager(x: Tensor, weight: Tensor, i: SimpleNamespace, rotation: str) -> Tensor:
    rotate, dtype = ROTATIONS[rotation]
    cos, sin = i.tables[dtype]
    heads = rms_norm(x, weight, EPS).unflatten(-1, (i.keys.shape[3], -1))
    return rotate(heads, (cos[:, None], sin[:, None]))


def _activation_bytes(settings: KernelSettings) -> int:
    return settings.shape.chunk_tokens * settings.shape.width * settings.dtype.itemsize


def _table_bytes(settings: KernelSettings) -> int:
    # cosines and sines of half a head each
    return settings.shape.chunk_tokens * settings.shape.head_dim * TABLE_VALUE_BYTES
