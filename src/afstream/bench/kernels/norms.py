"""RMSNorm with rotation: with the write into a slot, and in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from afstream.bench.kernels import public
from afstream.bench.kernels.case import KernelCase, KernelSettings, Outputs, Work
from afstream.bench.kernels.predictions import NORM_WRITE
from afstream.bench.kernels.shapes import NUM_SLOTS
from afstream_kernels import (
    Backend,
    norm_rotate,
    norm_rotate_write,
    reference,
    rms_norm,
    rotation_tables,
)

EPS = 1e-6
# The slot that is written.
SLOT = 2
TABLE_VALUE_BYTES = 4
ROUNDINGS = 2

Tables = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class NormInputs:
    """One layer's projections.

    Attributes:
        q: [B, T, C]; k likewise.
        k: see q.
        q_weight: [C]; k_weight likewise.
        k_weight: see q_weight.
        tables: cosines and sines [T, D / 2], float32.
        wide_tables: the same in float64.
        keys: [B, N, R, H, D].
        grad: [B, T, H, D].
    """

    q: Tensor
    k: Tensor
    q_weight: Tensor
    k_weight: Tensor
    tables: Tables
    wide_tables: Tables
    keys: Tensor
    grad: Tensor

    @property
    def num_heads(self) -> int:
        """H."""
        return self.keys.shape[3]


Way = Callable[[NormInputs], Tensor]


def norm_write_case(settings: KernelSettings) -> KernelCase[NormInputs]:
    """Queries and keys of one layer; the keys go into a slot."""
    shape = settings.shape
    # q and k in, q and k out
    moved = 4 * _activation_bytes(settings) + _table_bytes(settings)
    alternatives: dict[str, Callable[[NormInputs], Outputs]] = {
        f"eager, {rotation} RoPE": partial(_write_eagerly, rotation=rotation)
        for rotation in public.ROTATIONS
    }
    if settings.compiled:
        alternatives |= {
            "torch.compile: float32 RoPE": public.compiled(
                partial(_write_eagerly, rotation="float32")
            ),
            "torch.compile: twin": public.compiled(_write_by_twin),
        }
    return KernelCase(
        name=NORM_WRITE,
        about=f"q and k of one layer, {shape.chunk_tokens} tokens of {shape.width}",
        make_inputs=partial(norm_inputs, settings),
        ops={
            name: partial(_write, backend=backend)
            for name, backend in settings.named_backends().items()
        },
        expected=_exact_write,
        alternatives=alternatives,
        work=Work(moved_bytes=moved),
        tolerance=settings.tolerance(ROUNDINGS),
        poison=_spoil_slot,
    )


def norm_training_case(settings: KernelSettings) -> KernelCase[NormInputs]:
    """Queries of one layer, forwards and backwards."""
    shape = settings.shape
    # forwards in and out; backwards input and gradient in, gradient out
    moved = 5 * _activation_bytes(settings) + 2 * _table_bytes(settings)
    eager = partial(_rotate_eagerly, rotation="float32")
    alternatives = {"eager, float32 RoPE": partial(_there_and_back, way=eager)}
    if settings.compiled:
        alternatives["torch.compile: float32 RoPE"] = partial(
            _there_and_back, way=public.compiled(eager)
        )
    return KernelCase(
        name="norm + RoPE, training",
        about=f"forward and backward, q of one layer, {shape.chunk_tokens} tokens of {shape.width}",
        make_inputs=partial(norm_inputs, settings),
        ops={
            name: partial(_there_and_back, way=partial(_rotate, backend=backend))
            for name, backend in settings.named_backends().items()
        },
        expected=_exact_gradients,
        alternatives=alternatives,
        work=Work(moved_bytes=moved),
        tolerance=settings.tolerance(ROUNDINGS),
    )


def norm_inputs(settings: KernelSettings) -> NormInputs:
    """Random projections and slots."""
    shape, draw = settings.shape, settings.source()
    tokens = 1, shape.chunk_tokens
    tables = [
        rotation_tables(0, grid=shape.grid, head_dim=shape.head_dim, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    ]
    narrow, wide = ((cos.to(settings.device), sin.to(settings.device)) for cos, sin in tables)
    return NormInputs(
        q=draw(*tokens, shape.width).requires_grad_(),
        k=draw(*tokens, shape.width),
        q_weight=draw(shape.width).requires_grad_(),
        k_weight=draw(shape.width),
        tables=narrow,
        wide_tables=wide,
        keys=draw(1, NUM_SLOTS, shape.chunk_tokens, shape.num_heads, shape.head_dim),
        grad=draw(*tokens, shape.num_heads, shape.head_dim),
    )


def _activation_bytes(settings: KernelSettings) -> int:
    return settings.shape.chunk_tokens * settings.shape.width * settings.dtype.itemsize


def _table_bytes(settings: KernelSettings) -> int:
    # cosines and sines of half a head each
    return settings.shape.chunk_tokens * settings.shape.head_dim * TABLE_VALUE_BYTES


def _rotate(inputs: NormInputs, *, backend: Backend) -> Tensor:
    tensors = inputs.q, inputs.q_weight, *inputs.tables
    return norm_rotate(*tensors, num_heads=inputs.num_heads, eps=EPS, backend=backend)


def _rotate_eagerly(inputs: NormInputs, *, rotation: str) -> Tensor:
    return _eager(inputs.q, inputs.q_weight, inputs, rotation)


def _eager(x: Tensor, weight: Tensor, inputs: NormInputs, rotation: str) -> Tensor:
    rotate, dtype = public.ROTATIONS[rotation]
    cos, sin = inputs.tables if dtype == torch.float32 else inputs.wide_tables
    heads = rms_norm(x, weight, EPS).unflatten(-1, (inputs.num_heads, -1))
    return rotate(heads, (cos[:, None], sin[:, None]))


def _write(inputs: NormInputs, *, backend: Backend) -> Outputs:
    return _write_with(partial(norm_rotate_write, backend=backend), inputs)


def _write_by_twin(inputs: NormInputs) -> Outputs:
    return _write_with(reference.norm_rotate_write, inputs)


def _write_with(write: Callable[..., Tensor], inputs: NormInputs) -> Outputs:
    weights = inputs.q_weight, inputs.k_weight
    q = write(inputs.q, inputs.k, *weights, *inputs.tables, inputs.keys, [SLOT], eps=EPS)
    return q, inputs.keys


def _write_eagerly(inputs: NormInputs, *, rotation: str) -> Outputs:
    inputs.keys[:, SLOT] = _eager(inputs.k, inputs.k_weight, inputs, rotation)
    return _rotate_eagerly(inputs, rotation=rotation), inputs.keys


def _spoil_slot(inputs: NormInputs) -> None:
    inputs.keys[:, SLOT] = torch.nan


def _exact_write(inputs: NormInputs) -> Outputs:
    exact = NormInputs(
        q=inputs.q.detach().double(),
        k=inputs.k.double(),
        q_weight=inputs.q_weight.detach().double(),
        k_weight=inputs.k_weight.double(),
        tables=inputs.wide_tables,
        wide_tables=inputs.wide_tables,
        keys=inputs.keys.double(),
        grad=inputs.grad,
    )
    return _write_by_twin(exact)


def _there_and_back(inputs: NormInputs, *, way: Way) -> Outputs:
    with torch.enable_grad():
        out = way(inputs)
        gradients = torch.autograd.grad(out, (inputs.q, inputs.q_weight), inputs.grad)
    return out.detach(), *gradients


def _exact_gradients(inputs: NormInputs) -> Outputs:
    x, weight = (x.detach().double().requires_grad_() for x in (inputs.q, inputs.q_weight))
    with torch.enable_grad():
        out = reference.norm_rotate(
            x, weight, *inputs.wide_tables, num_heads=inputs.num_heads, eps=EPS
        )
        gradients = torch.autograd.grad(out, (x, weight), inputs.grad.double())
    return out.detach(), *gradients
