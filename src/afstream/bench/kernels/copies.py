"""Slot copies through all layers: capture of a finished chunk, and a view turned on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from afstream.bench.kernels import public
from afstream.bench.kernels.case import KernelCase, KernelSettings, Outputs, Work
from afstream.bench.kernels.predictions import CAPTURE
from afstream.bench.kernels.shapes import CHUNK_OFFSETS
from afstream.geometry import CHUNK_FRAMES
from afstream_kernels import Backend, copy_slots, reference, turn_tables

# Read and written, of keys and of values.
PASSES = 4
# The chunk in the making, one that must stay as it is, and the slot that is captured into.
CAPTURE_SLOTS, CURRENT, TARGET = 3, 0, 2

Tables = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class CopyInputs:
    """Slots of all layers, and where some of them go.

    Attributes:
        keys: [L, B, N, R, H, D]; values likewise.
        values: see keys.
        to_keys: [L, B, M, R, H, D], changed in place; to_values likewise.
        to_values: see to_keys.
        sources: slots to copy.
        targets: slots to copy them to.
        turns: cosines and sines [P, D / 2] by which keys are moved in time on the way, by
            dtype; empty for plain copies.
    """

    keys: Tensor
    values: Tensor
    to_keys: Tensor
    to_values: Tensor
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    turns: Mapping[torch.dtype, Tables] = field(default_factory=dict[torch.dtype, Tables])


Way = Callable[[CopyInputs], None]


def capture_case(settings: KernelSettings) -> KernelCase[CopyInputs]:
    """A finished chunk goes from its own place into a slot, in all layers."""
    ways: dict[str, Way] = {
        "eager, two strided copies": _copy_at_once,
        "eager, layer by layer": _copy_by_layer,
    }
    return _case(CAPTURE, settings, partial(_capture_inputs, settings), ways, 1, roundings=0)


def view_case(settings: KernelSettings) -> KernelCase[CopyInputs]:
    """All that a chunk sees of the past, turned to where it is seen, for torch's attention."""
    ways: dict[str, Way] = {
        f"eager, {rotation} RoPE, layer by layer": partial(_turn_by_layer, rotation=rotation)
        for rotation in public.ROTATIONS
    }
    make_inputs = partial(_view_inputs, settings)
    count = len(CHUNK_OFFSETS) - 1
    return _case("slot copy, turned view", settings, make_inputs, ways, count, roundings=2)


def _case(
    name: str,
    settings: KernelSettings,
    make_inputs: Callable[[], CopyInputs],
    alternatives: Mapping[str, Way],
    num_slots: int,
    *,
    roundings: int,
) -> KernelCase[CopyInputs]:
    shape = settings.shape
    moved = PASSES * num_slots * shape.num_layers * shape.chunk_tokens * shape.width
    compiled: dict[str, Way] = (
        {"torch.compile: twin": public.compiled(_copy_by_twin)} if settings.compiled else {}
    )
    return KernelCase(
        name=name,
        about=f"keys and values of {num_slots * CHUNK_FRAMES} latent frames,"
        f" {shape.num_layers} layers",
        make_inputs=make_inputs,
        ops={
            name: _in_place(partial(_ours, backend=backend))
            for name, backend in settings.named_backends().items()
        },
        expected=_exact,
        alternatives={name: _in_place(way) for name, way in {**alternatives, **compiled}.items()},
        work=Work(moved_bytes=moved * settings.dtype.itemsize),
        tolerance=settings.tolerance(roundings),
        poison=_spoil_targets,
    )


def _capture_inputs(settings: KernelSettings) -> CopyInputs:
    keys, values = _slots(settings, CAPTURE_SLOTS)
    # within one buffer, as the memory does it
    return CopyInputs(
        keys=keys,
        values=values,
        to_keys=keys,
        to_values=values,
        sources=(CURRENT,),
        targets=(TARGET,),
    )


def _view_inputs(settings: KernelSettings) -> CopyInputs:
    offsets = tuple(-offset for offset in CHUNK_OFFSETS[:-1])
    keys, values = _slots(settings, 1 + len(offsets))
    turns: dict[torch.dtype, Tables] = {}
    for dtype in (torch.float32, torch.float64):
        cos, sin = turn_tables(offsets, head_dim=settings.shape.head_dim, dtype=dtype)
        turns[dtype] = cos.to(settings.device), sin.to(settings.device)
    places = tuple(range(1, 1 + len(offsets)))
    return CopyInputs(
        keys=keys,
        values=values,
        to_keys=torch.zeros_like(keys),
        to_values=torch.zeros_like(values),
        sources=places[::-1],
        targets=places,
        turns=turns,
    )


def _slots(settings: KernelSettings, count: int) -> tuple[Tensor, Tensor]:
    shape, draw = settings.shape, settings.source()
    size = shape.num_layers, 1, count, shape.chunk_tokens, shape.num_heads, shape.head_dim
    return draw(*size), draw(*size)


def _in_place(way: Way) -> Callable[[CopyInputs], Outputs]:
    """Run it and show the buffers that it wrote into, bystanders included."""

    def run(inputs: CopyInputs) -> Outputs:
        way(inputs)
        return inputs.to_keys, inputs.to_values

    return run


def _ours(inputs: CopyInputs, *, backend: Backend) -> None:
    buffers = inputs.keys, inputs.values, inputs.to_keys, inputs.to_values
    turn = inputs.turns.get(torch.float32)
    copy_slots(*buffers, inputs.sources, inputs.targets, turn, backend=backend)


def _copy_by_twin(inputs: CopyInputs) -> None:
    buffers = inputs.keys, inputs.values, inputs.to_keys, inputs.to_values
    turn = inputs.turns.get(torch.float32)
    reference.copy_slots(*buffers, inputs.sources, inputs.targets, turn)


def _copy_at_once(inputs: CopyInputs) -> None:
    for source, target in zip(inputs.sources, inputs.targets, strict=True):
        inputs.to_keys[:, :, target].copy_(inputs.keys[:, :, source])
        inputs.to_values[:, :, target].copy_(inputs.values[:, :, source])


def _copy_by_layer(inputs: CopyInputs) -> None:
    for layer in range(inputs.keys.shape[0]):
        for source, target in zip(inputs.sources, inputs.targets, strict=True):
            inputs.to_keys[layer, :, target].copy_(inputs.keys[layer, :, source])
            inputs.to_values[layer, :, target].copy_(inputs.values[layer, :, source])


def _turn_by_layer(inputs: CopyInputs, *, rotation: str) -> None:
    rotate, dtype = public.ROTATIONS[rotation]
    tables = zip(*inputs.turns[dtype], strict=True)
    for source, target, turn in zip(inputs.sources, inputs.targets, tables, strict=True):
        for layer in range(inputs.keys.shape[0]):
            inputs.to_keys[layer, :, target] = rotate(inputs.keys[layer, :, source], turn)
            inputs.to_values[layer, :, target] = inputs.values[layer, :, source]


def _spoil_targets(inputs: CopyInputs) -> None:
    for target in inputs.targets:
        inputs.to_keys[:, :, target] = torch.nan
        inputs.to_values[:, :, target] = torch.nan


def _exact(inputs: CopyInputs) -> Outputs:
    """Layer by layer: all of them in float64 would take tens of gigabytes."""
    # float32 holds what the narrower dtypes do, and rounds the turned keys much finer
    keys, values = inputs.to_keys.float(), inputs.to_values.float()
    if keys is inputs.to_keys:
        keys, values = keys.clone(), values.clone()
    for layer in range(keys.shape[0]):
        one = slice(layer, layer + 1)
        reference.copy_slots(
            inputs.keys[one].double(),
            inputs.values[one].double(),
            keys[one],
            values[one],
            inputs.sources,
            inputs.targets,
            inputs.turns.get(torch.float64),
        )
    return keys, values
