"""Counts and times of a run, in memory that does not grow with the video."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from afstream.video.stride_sample import StrideSample

if TYPE_CHECKING:
    from afstream.stream import Chunk, Receipt

# Enough for a steady 99th percentile.
SAMPLES = 256


class Spread:
    """Mean, extremes and percentiles of a series, from a sample of fixed size."""

    def __init__(self) -> None:
        self._sample: StrideSample[float] = StrideSample(SAMPLES)
        self._count = 0
        self._sum = 0.0
        self._largest = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self._sample.offer(lambda: value)
        self._count += 1
        self._sum += value
        self._largest = max(self._largest, value)

    def summary(self) -> dict[str, float]:
        """The figures, rounded to three digits; empty without values."""
        if not self._count:
            return {}
        ordered = sorted(self._sample.picked())

        def percentile(share: float) -> float:
            return round(ordered[round(share * (len(ordered) - 1))], 3)

        return {
            "count": self._count,
            "mean": round(self._sum / self._count, 3),
            "p50": percentile(0.5),
            "p90": percentile(0.9),
            "p99": percentile(0.99),
            "max": round(self._largest, 3),
        }


@dataclass(slots=True)
class Tally:
    """Counts and times of one run.

    Attributes:
        fps: video frames a second of the video.
        clock: the host's clock in seconds; tests replace it.
        chunks: chunks made.
        frames: video frames made.
        first_frame_ms: milliseconds from the start of generating to the first decoded frame.
        switch_ms: latency of the newest prompt change, None before there was one.
        switches: latencies of all prompt changes, ms.
        parts: time of each part of a chunk, ms.
    """

    fps: int
    clock: Callable[[], float] = time.perf_counter
    chunks: int = 0
    frames: int = 0
    first_frame_ms: float | None = None
    switch_ms: float | None = None
    switches: Spread = field(default_factory=Spread)
    parts: dict[str, Spread] = field(default_factory=dict[str, Spread])
    _began: float = 0.0
    _ended: float | None = None

    def begin(self) -> None:
        """Start the clock: the model is loaded, the first chunk is asked for."""
        self._began = self.clock()

    def end(self) -> None:
        """Stop the clock: the video is closed."""
        self._ended = self.clock()

    def add(self, chunk: Chunk) -> None:
        """Count a chunk as soon as it is handed out."""
        if self.first_frame_ms is None:
            self.first_frame_ms = 1000 * self.wall_s
        self.chunks += 1
        self.frames += len(chunk.frames)
        # The first prompt replaces none; its latency is that of the first frame.
        for receipt in chunk.receipts if chunk.index else ():
            self._add_switch(receipt)

    def add_timing(self, chunk: Chunk) -> None:
        """Count its times, once its frames are written: on a GPU they come later than these."""
        for part, milliseconds in asdict(chunk.timing).items():
            self.parts.setdefault(part, Spread()).add(milliseconds)

    def _add_switch(self, receipt: Receipt) -> None:
        if receipt.switch_ms is not None:
            self.switch_ms = receipt.switch_ms
            self.switches.add(receipt.switch_ms)

    @property
    def seconds(self) -> float:
        """Seconds of video so far."""
        return self.frames / self.fps

    @property
    def wall_s(self) -> float:
        """Seconds that generating has taken."""
        return (self._ended or self.clock()) - self._began

    @property
    def frames_per_s(self) -> float:
        """Video frames made per second, writing included."""
        return self.frames / max(self.wall_s, 1e-9)

    def summary(self) -> dict[str, object]:
        """All counts and times, for a run record."""
        return {
            "wall_s": round(self.wall_s, 3),
            "frames_per_s": round(self.frames_per_s, 2),
            "times_real_time": round(self.frames_per_s / self.fps, 3),
            "first_frame_ms": self.first_frame_ms and round(self.first_frame_ms, 3),
            "switch_ms": self.switches.summary(),
            "chunk": {part: spread.summary() for part, spread in self.parts.items()},
        }
