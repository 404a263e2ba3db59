"""LayerNorm with modulation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from afstream.bench.kernels import public
from afstream.bench.kernels.case import KernelCase, KernelSettings, Outputs, Work
from afstream.geometry import CHUNK_FRAMES
from afstream_kernels import Backend, modulate, reference

EPS = 1e-6
ROUNDINGS = 2


class ModulationInputs(NamedTuple):
    """A chunk's tokens x [1, F, P, C], and shift and scale [1, F, 1, C] of its frames."""

    x: Tensor
    shift: Tensor
    scale: Tensor


def modulation_case(settings: KernelSettings) -> KernelCase[ModulationInputs]:
    """LayerNorm and modulation of one chunk."""
    shape = settings.shape
    alternatives: dict[str, Callable[[ModulationInputs], Outputs]]
    alternatives = {"eager, LayerNorm in float32": _eager, "eager twin": _twin}
    if settings.compiled:
        alternatives["torch.compile: twin"] = public.compiled(_twin)
    return KernelCase(
        name="LayerNorm + modulation",
        about=f"{shape.chunk_tokens} tokens of {shape.width}",
        make_inputs=partial(_make_inputs, settings),
        ops={
            name: partial(_ours, backend=backend)
            for name, backend in settings.named_backends().items()
        },
        expected=_exact,
        alternatives=alternatives,
        work=Work(moved_bytes=2 * shape.chunk_tokens * shape.width * settings.dtype.itemsize),
        tolerance=settings.tolerance(ROUNDINGS),
    )


def _make_inputs(settings: KernelSettings) -> ModulationInputs:
    shape, draw = settings.shape, settings.source()
    vector = 1, CHUNK_FRAMES, 1, shape.width
    return ModulationInputs(
        x=draw(1, CHUNK_FRAMES, shape.frame_tokens, shape.width),
        shift=draw(*vector),
        scale=draw(*vector),
    )


def _ours(inputs: ModulationInputs, *, backend: Backend) -> Outputs:
    return (modulate(*inputs, eps=EPS, backend=backend),)


def _twin(inputs: ModulationInputs) -> Outputs:
    return (reference.modulate(*inputs, eps=EPS),)


def _exact(inputs: ModulationInputs) -> Outputs:
    return _twin(ModulationInputs(*(tensor.double() for tensor in inputs)))


def _eager(inputs: ModulationInputs) -> Outputs:
    x, shift, scale = inputs
    normed = functional.layer_norm(x.float(), x.shape[-1:], eps=EPS).to(x.dtype)
    return (normed * (1 + scale) + shift,)
