"""Layers whose weights lie in host memory and visit the device in turn.

A backbone larger than the GPU runs all the same: while one layer computes, the weights of the
next one travel. Two places on the device serve all layers that travel, so what they cost there
is two layers, however many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from afstream.errors import ConfigError

L = TypeVar("L", bound=nn.Module)

PLACES = 2
# weights of a layer lie so many values apart: kernels load whole 16 bytes
STEP = 64


def spread(count: int, total: int) -> tuple[int, ...]:
    """Indices of `count` of `total` layers, evenly spread, so that travel hides behind work.

    Raises:
        ConfigError: there are not so many.
    """
    if count > total:
        raise ConfigError(
            f"{count} layers are to be offloaded, but the model has {total}; give {total} at most"
        )
    return tuple(index * total // count for index in range(count))


class Travellers:
    """The layers that travel; all of one shape.

    Until `depart` they stand in host memory, to be filled there.

    Args:
        layers: their weights may be without memory.
        device: where they will run.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._number = {id(layer): number for number, layer in enumerate(layers)}
        self._layers = layers
        self._on_gpu = device.type == "cuda"
        first = next(layers[0].parameters())
        size = room(layers[0])
        # copies from ordinary memory would make the host wait
        self._homes = [
            torch.empty(size, dtype=first.dtype, pin_memory=self._on_gpu) for _ in layers
        ]
        self._places = [
            torch.empty(size, dtype=first.dtype, device=device)
            for _ in range(min(PLACES, len(layers)))
        ]
        self._holds: list[int | None] = [None] * len(self._places)
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self._arrived: list[torch.cuda.Event | None] = [None] * len(self._places)
        self._used: list[torch.cuda.Event | None] = [None] * len(self._places)
        for layer, home in zip(layers, self._homes, strict=True):
            _stand_in(layer, home)

    def depart(self) -> None:
        """From now on the layers compute with what lies in their places on the device."""
        for number, layer in enumerate(self._layers):
            _stand_in(layer, self._places[number % len(self._places)])

    def visit(self, layers: Sequence[L]) -> Iterator[L]:
        """All layers of a model in order, each with its weights where it computes."""
        for layer in layers:
            number = self._number.get(id(layer))
            if number is None:
                yield layer
                continue
            place, after = number % len(self._places), (number + 1) % len(self._layers)
            self._fetch(number)
            if after % len(self._places) != place:
                # the next one travels while this one computes
                self._fetch(after)
            self._wait(self._arrived[place])
            yield layer
            self._used[place] = self._mark()

    def _fetch(self, number: int) -> None:
        place = number % len(self._places)
        if self._holds[place] == number:
            return
        self._holds[place] = number
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            self._wait(self._used[place])
            self._places[place].copy_(self._homes[number], non_blocking=True)
            self._arrived[place] = self._mark()

    def _mark(self) -> torch.cuda.Event | None:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    @staticmethod
    def _wait(event: torch.cuda.Event | None) -> None:
        if event is not None:
            torch.cuda.current_stream().wait_event(event)


def _stand_in(layer: nn.Module, flat: Tensor) -> None:
    """Make a layer's weights views of one flat tensor, in their order."""
    start = 0
    for owner in layer.modules():
        for name, weight in list(owner.named_parameters(recurse=False)):
            view = flat[start : start + weight.numel()].view(weight.shape)
            setattr(owner, name, nn.Parameter(view, requires_grad=False))
            start += _room(weight)


def room(layer: nn.Module) -> int:
    """Values that a layer's weights take up where it travels, gaps between them included."""
    return sum(_room(weight) for weight in layer.parameters())


def _room(weight: Tensor) -> int:
    return -(-weight.numel() // STEP) * STEP


def allot(module: nn.Module, device: torch.device) -> None:
    """Give every weight that has no memory yet its place on a device."""
    for owner in module.modules():
        for name, weight in list(owner.named_parameters(recurse=False)):
            if weight.is_meta:
                place = torch.empty_like(weight, device=device)
                setattr(owner, name, nn.Parameter(place, requires_grad=False))
