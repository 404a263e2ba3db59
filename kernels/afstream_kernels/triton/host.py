"""Host integers as kernels read them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """int32 tensor of a few host integers, sent to the device once and kept.

    Slots are few, so the same tuples come back for ever: the steady loop sends nothing, and
    a captured graph may rely on the address. For the bodies of operators only: to
    torch.compile, host integers that change are symbols.
    """
    return torch.tensor(values, dtype=torch.int32, device=device)
