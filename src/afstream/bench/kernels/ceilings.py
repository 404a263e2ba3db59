"""How fast a device multiplies and copies: the floor under every kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from afstream.bench.kernels.timing import GpuTimer

SIDE = 8192
COPY_BYTES = 2**30
PER_MS_TO_TERA = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The most that a device gives.

    Attributes:
        tflops: of dense bfloat16 products.
        terabytes_per_s: of a copy, bytes read and bytes written both counted.
    """

    tflops: float
    terabytes_per_s: float


# Measured on one H200.
H200 = Ceilings(tflops=790.0, terabytes_per_s=4.3)


def product_load(device: torch.device) -> Callable[[], object]:
    """A large bfloat16 product, launched with each call.

    The factors are random, because a GPU draws less power on zeros and clocks higher.
    """
    left, right = (torch.randn(SIDE, SIDE, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=product)


def measure_ceilings(timer: GpuTimer, device: torch.device) -> tuple[Ceilings, float]:
    """What large products and large copies reach here, and the milliseconds of one product."""
    product_ms = timer.time(product_load(device)).median_ms
    source = torch.randint(2**31 - 1, (COPY_BYTES // 4,), device=device, dtype=torch.int32)
    target = torch.empty_like(source)
    copy_ms = timer.time(lambda: target.copy_(source)).median_ms
    ceilings = Ceilings(
        tflops=round(2 * SIDE**3 / product_ms * PER_MS_TO_TERA, 1),
        terabytes_per_s=round(2 * COPY_BYTES / copy_ms * PER_MS_TO_TERA, 3),
    )
    return ceilings, product_ms
