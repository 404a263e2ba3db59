"""Segment attention: of a chunk, of a re-cache, and of training, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from afstream_kernels import (
    apply_rope,
    rope_shift_tables,
    rope_tables,
    slot_attention,
    slot_attention_lse,
)
from afstream_kernels.reference import slot_attention as twin
from kernel_bench.case import KernelCase, KernelSettings, Outputs, forward, forward_backward
from kernel_bench.public import ROTATIONS, SDPA_BACKENDS, rotate_float32, sdpa
from kernel_bench.report import CHUNK
from kernel_bench.sizes import CHUNK_OFFSETS, NUM_SLOTS, RECACHE_CHUNKS, RECACHE_OFFSETS

Way = Callable[[SimpleNamespace], Tensor]

# Slots are read in an order that is not that of memory; no divisor of the number of slots.
SLOT_STEP = 3
# Query rows for which the twin runs at a time: its scores take rows * keys * heads values.
EXACT_ROWS = 128
# Products of T x K x C: scores and output; backward the scores anew, the gradients of the
# weights and of the queries; and those of own keys and own values.
FORWARD, TO_QUERIES, TO_OWN = 2, 3, 2
# The twin rounds the scores, too, so in bfloat16 it needs more than a kernel does.
FORWARD_ROUNDINGS, GRADIENT_ROUNDINGS = 3, 6


def chunk_case(settings: KernelSettings) -> KernelCase:
    """A chunk's queries over sink, junction, local window and the chunk itself."""
    splits = {"whole": 1, "split": 2}
    return _inference_case(CHUNK, settings, CHUNK_OFFSETS, num_chunks=1, splits=splits)


def recache_case(settings: KernelSettings) -> KernelCase:
    """A whole window's queries over sink and local window."""
    name, splits = "attention, re-cache", {"whole": 1}
    return _inference_case(
        name, settings, RECACHE_OFFSETS, num_chunks=RECACHE_CHUNKS, splits=splits
    )


def training_case(settings: KernelSettings) -> KernelCase:
    """Forward and backward: a chunk's own keys have gradients, those in slots have none."""
    offsets, shape = CHUNK_OFFSETS[:-1], settings.shape
    tokens, cached = shape.chunk_tokens, len(offsets) * shape.chunk_tokens
    products = (FORWARD + TO_QUERIES) * (tokens + cached) + TO_OWN * tokens
    # q, output, gradients of both; own keys and values and their gradients; slots
    moved = 8 * tokens + 2 * cached
    others = _others(settings, compiled_twin=True)
    return KernelCase(
        name="attention, training",
        about=f"forward and backward, {tokens} queries, {tokens} own keys with gradient,"
        f" {cached} in slots, {shape.num_heads} heads of {shape.head_dim}",
        make_inputs=partial(attention_inputs, settings, offsets, tokens, training=True),
        ops={name: forward_backward(way) for name, way in _ours(settings, {}).items()},
        expected=_exact,
        alternatives={name: forward_backward(way) for name, way in others.items()},
        flops=2 * products * tokens * shape.width,
        moved_bytes=moved * shape.width * settings.dtype.itemsize,
        tolerance=settings.tolerance(GRADIENT_ROUNDINGS),
    )


def _inference_case(
    name: str,
    settings: KernelSettings,
    offsets: tuple[int, ...],
    *,
    num_chunks: int,
    splits: Mapping[str, int],
) -> KernelCase:
    shape = settings.shape
    queries, keys = num_chunks * shape.chunk_tokens, len(offsets) * shape.chunk_tokens
    # the scores of a re-cache would take tens of gigabytes in the twin
    others = _others(settings, compiled_twin=num_chunks == 1)
    return KernelCase(
        name=name,
        about=f"{queries} queries, {keys} keys in {len(offsets)} slots,"
        f" {shape.num_heads} heads of {shape.head_dim}",
        make_inputs=partial(attention_inputs, settings, offsets, queries),
        ops={name: forward(way) for name, way in _ours(settings, splits).items()},
        expected=_exact,
        alternatives={name: forward(way) for name, way in others.items()},
        flops=2 * FORWARD * queries * keys * shape.width,
        moved_bytes=2 * (queries + keys) * shape.width * settings.dtype.itemsize,
        tolerance=settings.tolerance(FORWARD_ROUNDINGS),
    )


def attention_inputs(
    settings: KernelSettings, offsets: tuple[int, ...], num_queries: int, *, training: bool = False
) -> SimpleNamespace:
    """Random inputs of one layer.

    Args:
        settings: the sizes.
        offsets: latent frames from each slot that is seen to the query.
        num_queries: T.
        training: with own keys and values, and gradients.

    Returns:
        q [B, T, H, D], rotated at its own positions; keys and values [B, N, R, H, D] of all
        slots, keys rotated at their own chunk's positions; raw_keys, the same before any
        rotation; slots, those that are seen; shift, cosines and sines [S, D / 2] of the offsets;
        tables [K, 1, D / 2] by rotation, which take raw keys to where they are seen; window,
        keys and values [B, K, H, D] that are ready for torch's own attention; own, keys and
        values [B, T, H, D] with gradient, none in inference.
    """
    shape, randn = settings.shape, settings.draw()
    rotation = partial(rope_tables, grid=shape.grid, head_dim=shape.head_dim)
    raw, values = (randn(1, NUM_SLOTS, shape.chunk_tokens, *shape.heads) for _ in range(2))
    q = randn(1, num_queries, *shape.heads).requires_grad_(training)
    cos, sin = settings.on_device(rotation(0))
    slots = tuple((1 + SLOT_STEP * index) % NUM_SLOTS for index in range(len(offsets)))
    tables = {
        # relative to the query's first position, because only differences count
        name: settings.on_device(_joined([rotation(-offset, dtype=dtype) for offset in offsets]))
        for name, (_, dtype) in ROTATIONS.items()
    }
    found = SimpleNamespace(
        q=q,
        keys=apply_rope(raw, cos[:, None], sin[:, None]),
        values=values,
        raw_keys=raw,
        slots=slots,
        offsets=offsets,
        shift=settings.on_device(rope_shift_tables(offsets, head_dim=shape.head_dim)),
        tables=tables,
        window=(rotate_float32(_gathered(raw, slots), tables["float32"]), _gathered(values, slots)),
        own=None,
    )
    if training:
        randn = settings.draw()
        found.own_key, found.own_value, found.grad = (randn(*q.shape) for _ in range(3))
        found.own = found.own_key.requires_grad_(), found.own_value.requires_grad_()
        found.wanted = "q", "own_key", "own_value"
    return found


def _exact(i: SimpleNamespace) -> Outputs:
    """The twin's output in float64, a few rows at a time, and its gradients in training."""
    device = i.q.device
    cos, sin = rope_shift_tables(i.offsets, head_dim=i.q.shape[-1], dtype=torch.float64)
    slots = torch.tensor(i.slots, dtype=torch.int32, device=device)
    held = i.keys.double(), i.values.double(), slots, cos.to(device), sin.to(device)
    queries = i.q.detach().double().split(EXACT_ROWS, dim=1)
    if i.own is None:
        return (torch.cat([twin(rows, *held)[0] for rows in queries], dim=1),)
    own = [x.detach().double().requires_grad_() for x in i.own]
    to_own = [torch.zeros_like(x) for x in own]
    outs: list[Tensor] = []
    to_q: list[Tensor] = []
    for rows, grad in zip(queries, i.grad.double().split(EXACT_ROWS, dim=1), strict=True):
        wanted = rows.requires_grad_(), *own
        with torch.enable_grad():
            out = twin(rows, *held, (own[0], own[1]))[0]
            found = torch.autograd.grad(out, wanted, grad)
        outs.append(out.detach())
        to_q.append(found[0])
        for total, part in zip(to_own, found[1:], strict=True):
            total += part
    return torch.cat(outs, dim=1), torch.cat(to_q, dim=1), *to_own


def _ours(settings: KernelSettings, splits: Mapping[str, int]) -> dict[str, Way]:
    """Each backend, and Triton's with the keys cut into so many splits."""
    ways: dict[str, Way] = {}
    for backend in settings.backends:
        ways[backend] = lambda i, backend=backend: slot_attention(*_held(i), backend=backend)
        for name, count in splits.items() if backend == "triton" else ():
            ways[f"triton, {name}"] = lambda i, count=count: slot_attention_lse(
                *_held(i), num_splits=count, backend="triton"
            )[0]
    return ways


def _others(settings: KernelSettings, *, compiled_twin: bool) -> dict[str, Way]:
    """Keys rotated anew and concatenated for each backend of torch, then with the keys ready."""
    ways: dict[str, Way] = {}
    for rotation in ROTATIONS:
        for name, backend in SDPA_BACKENDS.items():
            ways[f"{rotation} RoPE, cat, SDPA {name}"] = partial(
                _rotated_anew, rotation=rotation, backend=backend
            )
    for name, backend in SDPA_BACKENDS.items():
        ways[f"SDPA {name}, keys ready"] = partial(_keys_ready, backend=backend)
    traced: dict[str, Way] = {
        "float32 RoPE, cat, SDPA": partial(_rotated_anew, rotation="float32", backend=None)
    }
    if compiled_twin:
        traced["twin"] = _twin
    return ways | settings.through_compile(traced)


def _held(i: SimpleNamespace) -> tuple[Any, ...]:
    return i.q, i.keys, i.values, i.slots, *i.shift, i.own


def _twin(i: SimpleNamespace) -> Tensor:
    slots = torch.tensor(i.slots, dtype=torch.int32, device=i.q.device)
    cos, sin = i.shift
    return twin(i.q, i.keys, i.values, slots, cos, sin, i.own)[0]


def _keys_ready(i: SimpleNamespace, *, backend: SDPBackend) -> Tensor:
    keys, values = i.window
    return _attend(i, keys, values, backend)


def _rotated_anew(i: SimpleNamespace, *, rotation: str, backend: SDPBackend | None) -> Tensor:
    keys = ROTATIONS[rotation][0](_gathered(i.raw_keys, i.slots), i.tables[rotation])
    return _attend(i, keys, _gathered(i.values, i.slots), backend)


def _attend(i: SimpleNamespace, keys: Tensor, values: Tensor, backend: SDPBackend | None) -> Tensor:
    if i.own is not None:
        keys, values = (torch.cat(pair, dim=1) for pair in zip(i.own, (keys, values), strict=True))
    return sdpa(i.q, keys, values, backend)


def _gathered(held: Tensor, slots: tuple[int, ...]) -> Tensor:
    """Rows of the slots [B, N, R, H, D] one behind the other, [B, K, H, D]."""
    return torch.cat([held[:, slot] for slot in slots], dim=1)


def _joined(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    cos, sin = (torch.cat(part)[:, None] for part in zip(*pairs, strict=True))
    return cos, sin
