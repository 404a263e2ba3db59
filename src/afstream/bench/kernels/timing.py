"""Medians: on a GPU between events, with a cold cache; on a CPU between clock readings."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

Run = Callable[[], object]

WARM_UP = 3
# One run is repeated for about so long, but within these numbers.
BUDGET_MS = 400.0
FEWEST, MOST = 9, 60
CPU_RUNS = 9
FLUSH_BYTES = 2**30
FLUSH_SHARE = 16
MOST_FLUSHES = 20
DIGITS = 5


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
        """Summarize runs."""
        ordered = sorted(values)
        return cls(
            median_ms=round(statistics.median(ordered), DIGITS),
            low_ms=round(ordered[len(ordered) // 10], DIGITS),
            high_ms=round(ordered[-1 - len(ordered) // 10], DIGITS),
            runs=len(ordered),
        )


class Timer(Protocol):
    """Times a call."""

    def time(self, run: Run) -> Timing:
        """Warm up, then run often enough for a median."""
        ...


class CpuTimer:
    """Wall-clock time of a few runs."""

    def time(self, run: Run) -> Timing:
        """See `Timer`."""
        run()
        values: list[float] = []
        for _ in range(CPU_RUNS):
            began = time.perf_counter()
            run()
            values.append(_since_ms(began))
        return Timing.of(values)


class GpuTimer:
    """GPU time between two events, each run with a cold L2.

    Before each run a buffer much larger than the cache is read: read, not written, so that no
    dirty lines have to go back to memory on the run's account. Reading it also keeps the GPU
    busy while the host launches the run, so that short kernels are timed and not their launch,
    which a stream hides in a CUDA graph.

    Args:
        device: the current CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
        size = min(FLUSH_BYTES, memory_bytes // FLUSH_SHARE)
        self._junk = torch.ones(size // 4, device=device)
        self._flush_ms = 1.0
        flushes = [self._between_events(self._flush, 0) for _ in range(WARM_UP + 1)]
        self._flush_ms = _elapsed(flushes)[-1]

    def time(self, run: Run) -> Timing:
        """See `Timer`."""
        for _ in range(WARM_UP):
            run()
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        launch_ms = _since_ms(began)
        flushes = min(1 + math.ceil(launch_ms / self._flush_ms), MOST_FLUSHES)
        estimate = _elapsed([self._between_events(run, flushes)])[0]
        count = min(max(int(BUDGET_MS / max(estimate, 1e-3)), FEWEST), MOST)
        return Timing.of(_elapsed([self._between_events(run, flushes) for _ in range(count)]))

    def _flush(self) -> object:
        return self._junk.sum()

    def _between_events(self, run: Run, flushes: int) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(flushes):
            self._flush()
        start.record()
        run()
        end.record()
        return start, end


def _elapsed(pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> list[float]:
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def _since_ms(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
