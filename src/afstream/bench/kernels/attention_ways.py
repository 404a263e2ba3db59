"""How attention is come by: our implementations, and what one would run without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from afstream.bench.kernels import public
from afstream.bench.kernels.attention_inputs import AttentionInputs
from afstream.bench.kernels.case import KernelSettings, Outputs
from afstream_kernels import Backend, segment_attention, segment_attention_lse
from afstream_kernels.reference import segment_attention as twin

Way = Callable[[AttentionInputs], Tensor]


def our_ways(settings: KernelSettings, splits: Mapping[str, int]) -> dict[str, Way]:
    """Each backend, and Triton's keys cut by hand into so many splits."""
    ways: dict[str, Way] = {}
    for backend in settings.backends:
        ways[backend] = partial(_ours, backend=backend)
        if backend == "triton":
            ways |= {
                f"{backend}, {word}": partial(_ours_cut, num_splits=n) for word, n in splits.items()
            }
    return ways


def public_ways(settings: KernelSettings, *, compiled_twin: bool = True) -> dict[str, Way]:
    """Rotated anew and concatenated, then each backend of torch; the same with keys ready.

    Args:
        settings: where they run.
        compiled_twin: torch.compile of the twin, whose scores are a matrix in memory.
    """
    ways: dict[str, Way] = {}
    for rotation in public.ROTATIONS:
        for name, backend in public.SDPA_BACKENDS.items():
            ways[f"{rotation} RoPE, cat, SDPA {name}"] = partial(
                _rotated_anew, rotation=rotation, backend=backend
            )
    for name, backend in public.SDPA_BACKENDS.items():
        ways[f"SDPA {name}, keys ready"] = partial(_keys_ready, backend=backend)
    if settings.compiled:
        ways["torch.compile: float32 RoPE, cat, SDPA"] = public.compiled(
            partial(_rotated_anew, rotation="float32", backend=None)
        )
        if compiled_twin:
            ways["torch.compile: twin"] = public.compiled(_twin)
    return ways


def forwards(way: Way) -> Callable[[AttentionInputs], Outputs]:
    """The output."""

    def run(inputs: AttentionInputs) -> Outputs:
        return (way(inputs),)

    return run


def there_and_back(way: Way) -> Callable[[AttentionInputs], Outputs]:
    """The output, and the gradients of the query and of the own keys and values."""

    def run(inputs: AttentionInputs) -> Outputs:
        with torch.enable_grad():
            out = way(inputs)
            gradients = torch.autograd.grad(out, (inputs.q, *(inputs.own or ())), inputs.grad)
        return out.detach(), *gradients

    return run


def _ours(inputs: AttentionInputs, *, backend: Backend) -> Tensor:
    held = inputs.q, inputs.keys, inputs.values, inputs.slots
    return segment_attention(*held, *inputs.turn, inputs.own, backend=backend)


def _ours_cut(inputs: AttentionInputs, *, num_splits: int) -> Tensor:
    held = inputs.q, inputs.keys, inputs.values, inputs.slots
    out, _ = segment_attention_lse(
        *held, *inputs.turn, inputs.own, num_splits=num_splits, backend="triton"
    )
    return out


def _rotated_anew(inputs: AttentionInputs, *, rotation: str, backend: SDPBackend | None) -> Tensor:
    rotate, _ = public.ROTATIONS[rotation]
    keys = torch.cat([inputs.raw_keys[:, slot] for slot in inputs.slots], dim=1)
    values = torch.cat([inputs.values[:, slot] for slot in inputs.slots], dim=1)
    return _attend(inputs, rotate(keys, inputs.tables[rotation]), values, backend)


def _keys_ready(inputs: AttentionInputs, *, backend: SDPBackend) -> Tensor:
    return _attend(inputs, *inputs.window, backend)


def _attend(
    inputs: AttentionInputs, keys: Tensor, values: Tensor, backend: SDPBackend | None
) -> Tensor:
    if inputs.own is not None:
        keys, values = (
            torch.cat(pair, dim=1) for pair in zip(inputs.own, (keys, values), strict=True)
        )
    return public.sdpa(inputs.q, keys, values, backend)


def _twin(inputs: AttentionInputs) -> Tensor:
    slots = torch.tensor(inputs.slots, dtype=torch.int32, device=inputs.q.device)
    return twin(inputs.q, inputs.keys, inputs.values, slots, *inputs.turn, inputs.own)[0]
