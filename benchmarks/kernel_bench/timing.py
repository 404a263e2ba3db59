"""Medians of a call's times, and how fast a device multiplies and copies.

On a GPU times are taken between events, with a cold cache; on a CPU between clock readings.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Run = Callable[[], object]

WARM_UP = 3
# Runs are repeated for about so long, but within these numbers.
BUDGET_MS = 400.0
FEWEST, MOST = 9, 60
CPU_RUNS = 9
FLUSH_BYTES = 2**30
FLUSH_SHARE = 16
MOST_FLUSHES = 20
DIGITS = 5
# Of the product and the copy whose rates are the ceilings.
SIDE = 8192
COPY_BYTES = 2**30
PER_MS_TO_TERA = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds of one call.

    Attributes:
        median_ms: half of the runs took no longer.
        low_ms: a tenth of the runs took no longer.
        high_ms: nine tenths took no longer.
        runs: how many.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int

    @classmethod
    def of(cls, values: list[float]) -> Timing:
        """Summarize the milliseconds of all runs."""
        ordered = sorted(values)
        return cls(
            median_ms=round(statistics.median(ordered), DIGITS),
            low_ms=round(ordered[len(ordered) // 10], DIGITS),
            high_ms=round(ordered[-1 - len(ordered) // 10], DIGITS),
            runs=len(ordered),
        )


# Warms up a call, then runs it often enough for a median.
Timer = Callable[[Run], Timing]


def time_on_cpu(run: Run) -> Timing:
    """Wall-clock time of a few runs."""
    run()
    return Timing.of([_wall_ms(run) for _ in range(CPU_RUNS)])


class GpuTimer:
    """GPU time between two events, each run with a cold L2.

    Before each run a buffer much larger than the cache is read: read, not written as
    `triton.testing.do_bench` does, so that no dirty lines have to go back to memory on the run's
    account. Reading it also keeps the GPU busy while the host launches the run, so that short
    kernels are timed and not their launch, which a stream hides in a CUDA graph.

    Args:
        device: the current CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
        size = min(FLUSH_BYTES, memory_bytes // FLUSH_SHARE)
        self._junk = torch.ones(size // 4, device=device)
        self._flush_ms = self._elapsed(self._flush, runs=WARM_UP + 1, flushes=0)[-1]

    def __call__(self, run: Run) -> Timing:
        """Warm up, then time as many runs as fit the budget."""
        for _ in range(WARM_UP):
            run()
        torch.cuda.synchronize()
        launch_ms = _wall_ms(run)
        flushes = min(1 + math.ceil(launch_ms / self._flush_ms), MOST_FLUSHES)
        estimate = self._elapsed(run, runs=1, flushes=flushes)[0]
        count = min(max(int(BUDGET_MS / max(estimate, 1e-3)), FEWEST), MOST)
        return Timing.of(self._elapsed(run, runs=count, flushes=flushes))

    def _flush(self) -> object:
        return self._junk.sum()

    def _elapsed(self, run: Run, *, runs: int, flushes: int) -> list[float]:
        """Milliseconds of each run, all of them launched before the first is waited for."""
        pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        for _ in range(runs):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(flushes):
                self._flush()
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The highest rates of a device.

    Attributes:
        tflops: of dense bfloat16 products, 10^12 operations a second.
        terabytes_per_s: of a copy, bytes read and bytes written both counted.
    """

    tflops: float
    terabytes_per_s: float

    def floor_ms(self, flops: float, moved_bytes: float) -> float:
        """Milliseconds below which no implementation of a task can come."""
        return PER_MS_TO_TERA * max(flops / self.tflops, moved_bytes / self.terabytes_per_s)


# Measured on one H200.
H200 = Ceilings(tflops=790.0, terabytes_per_s=4.3)


def product_load(device: torch.device) -> Callable[[], object]:
    """A large bfloat16 product, launched with each call.

    The factors are random, because a GPU draws less power on zeros and clocks higher.
    """
    left, right = (torch.randn(SIDE, SIDE, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=product)


def measure_ceilings(timer: Timer, device: torch.device) -> tuple[Ceilings, float]:
    """The rates of large products and copies here, and the milliseconds of one product."""
    product_ms = timer(product_load(device)).median_ms
    source = torch.randint(2**31 - 1, (COPY_BYTES // 4,), device=device, dtype=torch.int32)
    target = torch.empty_like(source)
    copy_ms = timer(lambda: target.copy_(source)).median_ms
    ceilings = Ceilings(
        tflops=round(2 * SIDE**3 / product_ms * PER_MS_TO_TERA, 1),
        terabytes_per_s=round(2 * COPY_BYTES / copy_ms * PER_MS_TO_TERA, 3),
    )
    return ceilings, product_ms


def _wall_ms(run: Run) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)
