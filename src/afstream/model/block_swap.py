"""Block swap: layers whose weights stay in host memory and are copied to the device in turn.

A backbone larger than the GPU still runs: while one layer computes, the weights of the next
one are copied. Two buffers on the device serve all swapped layers, so they cost the memory of
two layers, however many are swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from afstream.errors import ConfigError

L = TypeVar("L", bound=nn.Module)

NUM_BUFFERS = 2
# weights of a layer start at multiples of this many values: kernels load 16 bytes at a time
ALIGNMENT = 64


def pick_layers(count: int, total: int) -> tuple[int, ...]:
    """Indices of `count` of `total` layers, evenly spaced, so that copies hide behind work.

    Raises:
        ConfigError: there are fewer layers.
    """
    if count > total:
        raise ConfigError(
            f"{count} layers are to be offloaded, but the model has {total}; give {total} at most"
        )
    return tuple(index * total // count for index in range(count))


class BlockSwap:
    """The swapped layers of a model; all have the same shape.

    Their weights lie in host memory, to be filled there, until `bind` is called.

    Args:
        layers: the layers to swap; their weights may be on the meta device.
        device: where they will run.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._number = {id(layer): number for number, layer in enumerate(layers)}
        self._layers = layers
        self._device = device
        self._on_gpu = device.type == "cuda"
        first = next(layers[0].parameters())
        size = flat_size(layers[0])
        # pinned, because copies from pageable memory make the host wait
        self._host = [torch.empty(size, dtype=first.dtype, pin_memory=self._on_gpu) for _ in layers]
        self._buffers = [
            torch.empty(size, dtype=first.dtype, device=device)
            for _ in range(min(NUM_BUFFERS, len(layers)))
        ]
        self._holds: list[int | None] = [None] * len(self._buffers)
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self._copied: list[torch.cuda.Event | None] = [None] * len(self._buffers)
        self._used: list[torch.cuda.Event | None] = [None] * len(self._buffers)
        for layer, flat in zip(layers, self._host, strict=True):
            _view_weights(layer, flat)

    def bind(self) -> None:
        """Switch the layers to the device buffers; their weights must be filled in by now."""
        for number, layer in enumerate(self._layers):
            _view_weights(layer, self._buffers[number % len(self._buffers)])

    def visit(self, layers: Sequence[L]) -> Iterator[L]:
        """Yield all layers of a model in order, each while its weights are on the device."""
        for layer in layers:
            number = self._number.get(id(layer))
            if number is None:
                yield layer
                continue
            buffer, after = number % len(self._buffers), (number + 1) % len(self._layers)
            self._fetch(number)
            if after % len(self._buffers) != buffer:
                # the next one is copied while this one computes
                self._fetch(after)
            self._wait(self._copied[buffer])
            yield layer
            self._used[buffer] = self._record()

    def _fetch(self, number: int) -> None:
        buffer = number % len(self._buffers)
        if self._holds[buffer] == number:
            return
        self._holds[buffer] = number
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            self._wait(self._used[buffer])
            self._buffers[buffer].copy_(self._host[number], non_blocking=True)
            self._copied[buffer] = self._record()

    def _record(self) -> torch.cuda.Event | None:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _wait(self, event: torch.cuda.Event | None) -> None:
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)


def flat_size(layer: nn.Module) -> int:
    """Number of values in the flat tensor of a layer's weights, alignment included."""
    return sum(_aligned(weight) for weight in layer.parameters())


def materialize(module: nn.Module, device: torch.device) -> None:
    """Allocate, but do not fill, memory on a device for every weight on the meta device."""
    for owner in module.modules():
        for name, weight in list(owner.named_parameters(recurse=False)):
            if weight.is_meta:
                # unlike `empty_like`, which would load torch's compiler on the meta device
                place = torch.empty(weight.shape, dtype=weight.dtype, device=device)
                _set_weight(owner, name, place)


def _view_weights(layer: nn.Module, flat: Tensor) -> None:
    """Make a layer's weights views of one flat tensor, in order."""
    start = 0
    for owner in layer.modules():
        for name, weight in list(owner.named_parameters(recurse=False)):
            _set_weight(owner, name, flat[start : start + weight.numel()].view(weight.shape))
            start += _aligned(weight)


def _set_weight(owner: nn.Module, name: str, value: Tensor) -> None:
    setattr(owner, name, nn.Parameter(value, requires_grad=False))


def _aligned(weight: Tensor) -> int:
    return -(-weight.numel() // ALIGNMENT) * ALIGNMENT
