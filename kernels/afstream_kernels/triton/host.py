"""Host integers as tensors on the device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A few host integers as an int32 tensor, sent to the device once and cached.

    Slots are few, so the same tuples come back: the steady loop sends nothing, and a CUDA graph may
    rely on the address. Only for the bodies of operators, because torch.compile makes symbols of
    host integers that change.
    """
    return torch.tensor(values, dtype=torch.int32, device=device)
