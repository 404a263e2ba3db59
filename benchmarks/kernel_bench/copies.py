"""Copies between slots in all layers: of a finished chunk, and with keys rotated on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from afstream_kernels import copy_slots, reference, rope_shift_tables
from kernel_bench.case import KernelCase, KernelSettings, Op, Outputs
from kernel_bench.public import ROTATIONS
from kernel_bench.report import STORE
from kernel_bench.sizes import CHUNK_FRAMES, CHUNK_OFFSETS

Way = Callable[[SimpleNamespace], None]

# Read and written, of keys and of values.
PASSES = 4
# The chunk in the making is in slot 0 and goes to slot 2; slot 1 must stay as it is.
STORE_SLOTS, CURRENT, TARGET = 3, 0, 2


def copy_cases(settings: KernelSettings) -> tuple[KernelCase, KernelCase]:
    """Storing a finished chunk; gathering all that a chunk sees of the past."""
    plain = {"eager, two strided copies": _copy_at_once, "eager, layer by layer": _copy_by_layer}
    rotated = {
        f"eager, {name} RoPE, layer by layer": partial(_rotate_by_layer, rotation=name)
        for name in ROTATIONS
    }
    name, count = "slot copy, gathered KV", len(CHUNK_OFFSETS) - 1
    return (
        _case(STORE, settings, _store_inputs, plain, num_slots=1, roundings=0),
        _case(name, settings, _gather_inputs, rotated, num_slots=count, roundings=2),
    )


def _case(
    name: str,
    settings: KernelSettings,
    make_inputs: Callable[[KernelSettings], SimpleNamespace],
    others: Mapping[str, Way],
    *,
    num_slots: int,
    roundings: int,
) -> KernelCase:
    shape = settings.shape
    values = num_slots * shape.num_layers * shape.chunk_tokens * shape.width
    others = {**others, **settings.through_compile({"twin": _copy(reference.copy_slots)})}
    return KernelCase(
        name=name,
        about=f"keys and values of {num_slots * CHUNK_FRAMES} latent frames,"
        f" {shape.num_layers} layers",
        make_inputs=partial(make_inputs, settings),
        ops=settings.ours(lambda backend: _shown(_copy(partial(copy_slots, backend=backend)))),
        expected=_exact,
        alternatives={name: _shown(way) for name, way in others.items()},
        moved_bytes=PASSES * values * settings.dtype.itemsize,
        tolerance=settings.tolerance(roundings),
        poison=_poison_targets,
    )


def _store_inputs(settings: KernelSettings) -> SimpleNamespace:
    """Keys and values [L, B, N, R, H, D], copied within one buffer, as the cache does it."""
    keys, values = _slots(settings, STORE_SLOTS)
    return SimpleNamespace(
        keys=keys,
        values=values,
        to_keys=keys,
        to_values=values,
        sources=(CURRENT,),
        targets=(TARGET,),
        turns={},
    )


def _gather_inputs(settings: KernelSettings) -> SimpleNamespace:
    """The same with other buffers to copy to, and tables [P, D / 2] by dtype to rotate keys by."""
    offsets = tuple(-offset for offset in CHUNK_OFFSETS[:-1])
    keys, values = _slots(settings, 1 + len(offsets))
    places = tuple(range(1, 1 + len(offsets)))
    return SimpleNamespace(
        keys=keys,
        values=values,
        to_keys=torch.zeros_like(keys),
        to_values=torch.zeros_like(values),
        sources=places[::-1],
        targets=places,
        turns={
            dtype: settings.on_device(
                rope_shift_tables(offsets, head_dim=settings.shape.head_dim, dtype=dtype)
            )
            for _, dtype in ROTATIONS.values()
        },
    )


def _slots(settings: KernelSettings, count: int) -> tuple[Tensor, Tensor]:
    shape, randn = settings.shape, settings.draw()
    size = shape.num_layers, 1, count, shape.chunk_tokens, *shape.heads
    return randn(*size), randn(*size)


def _shown(way: Way) -> Op:
    """The buffers that `way` wrote into, slots that must not change included."""

    def run(i: SimpleNamespace) -> Outputs:
        way(i)
        return i.to_keys, i.to_values

    return run


def _copy(op: Callable[..., None]) -> Way:
    return lambda i: op(
        *(i.keys, i.values, i.to_keys, i.to_values),
        *(i.sources, i.targets, i.turns.get(torch.float32)),
    )


def _copy_at_once(i: SimpleNamespace) -> None:
    for source, target in zip(i.sources, i.targets, strict=True):
        i.to_keys[:, :, target].copy_(i.keys[:, :, source])
        i.to_values[:, :, target].copy_(i.values[:, :, source])


def _copy_by_layer(i: SimpleNamespace) -> None:
    for layer in range(len(i.keys)):
        for source, target in zip(i.sources, i.targets, strict=True):
            i.to_keys[layer, :, target].copy_(i.keys[layer, :, source])
            i.to_values[layer, :, target].copy_(i.values[layer, :, source])


def _rotate_by_layer(i: SimpleNamespace, *, rotation: str) -> None:
    rotate, dtype = ROTATIONS[rotation]
    tables = zip(*i.turns[dtype], strict=True)
    for source, target, shift in zip(i.sources, i.targets, tables, strict=True):
        for layer in range(len(i.keys)):
            i.to_keys[layer, :, target] = rotate(i.keys[layer, :, source], shift)
            i.to_values[layer, :, target] = i.values[layer, :, source]


def _poison_targets(i: SimpleNamespace) -> None:
    for target in i.targets:
        i.to_keys[:, :, target] = i.to_values[:, :, target] = torch.nan


def _exact(i: SimpleNamespace) -> Outputs:
    """The twin layer by layer: all layers in float64 would take tens of gigabytes."""
    # float32 holds what the narrower dtypes do, and rounds the turned keys much finer
    keys, values = (x.to(torch.float32, copy=True) for x in (i.to_keys, i.to_values))
    for layer in range(len(keys)):
        one = slice(layer, layer + 1)
        held = i.keys[one].double(), i.values[one].double(), keys[one], values[one]
        reference.copy_slots(*held, i.sources, i.targets, i.turns.get(torch.float64))
    return keys, values
