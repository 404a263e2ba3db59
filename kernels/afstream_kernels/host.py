"""The device: which one is current, and small values that the host sends to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one for a block; nothing on other devices.

    Torch's operators find their device by their tensors. Launches of Triton kernels, captures and
    new events take the current one.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def launched(run: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Have a function that launches kernels run on the device of its first tensor."""

    @wraps(run)
    def guarded(x: Tensor, *args: P.args, **settings: P.kwargs) -> R:
        with on_device(x.device):
            return run(x, *args, **settings)

    return guarded


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; from the host to a GPU it is sent without making the host wait."""
    if device.type == "cuda" and x.device.type == "cpu":
        # a copy from pageable memory would wait until the GPU has done all that came before
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


@cache
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A few host integers as an int32 tensor, sent to the device once and cached.

    Slots are few, so the same tuples come back: the steady loop sends nothing, and a CUDA graph may
    rely on the address. Only for the bodies of operators, because torch.compile makes symbols of
    host integers that change.
    """
    return to_device(torch.tensor(values, dtype=torch.int32), device)
