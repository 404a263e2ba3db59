"""Values and stretches of a stream of any length, in memory that does not grow."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

MIB = 2**20
# Each bin is one per cent wider than the one below it.
BIN_RATIO = 1.01
SMALLEST = 1e-3
DIGITS = 3
# Even, so that all of them can be joined in pairs.
MAX_STRETCHES = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Distribution of a series in its own unit; all zero for an empty series.

    Attributes:
        count: number of values.
        mean: exact.
        median: right within one per cent.
        p95: 95 of 100 values are not above it; right within one per cent.
        max: exact.
    """

    count: int
    mean: float
    median: float
    p95: float
    max: float


class Series:
    """Counts values in bins of constant relative width.

    Unlike a sample of the values it loses none, so stalls that come at regular times are
    neither missed nor counted twice.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0
        self._largest = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Take in a value of 0 or more; below 0.001 all count as that."""
        self.total += value
        self.count += 1
        self._largest = max(self._largest, value)
        self._bins[math.floor(math.log(max(value, SMALLEST) / SMALLEST, BIN_RATIO))] += 1

    def spread(self) -> Spread:
        """Mean, percentiles and maximum."""
        return Spread(
            count=self.count,
            mean=round(self.total / max(self.count, 1), DIGITS),
            median=round(self._percentile(0.5), DIGITS),
            p95=round(self._percentile(0.95), DIGITS),
            max=round(self._largest, DIGITS),
        )

    def _percentile(self, share: float) -> float:
        """The middle of the bin that holds the value of that rank."""
        below = 0
        for number in sorted(self._bins):
            below += self._bins[number]
            if below >= share * self.count:
                return min(SMALLEST * BIN_RATIO ** (number + 0.5), self._largest)
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch of the video: how fast it came and what memory was held meanwhile.

    Attributes:
        start_s: where in the video its first chunk starts.
        frames: video frames in it.
        wall_s: seconds in which they were made and consumed.
        slowest_chunk_ms: the longest that one chunk took, consumer included.
        resident_bytes: most memory of the process at the end of a chunk; None where unknown.
        device_bytes: most memory that tensors took on the GPU; None on a CPU.
    """

    start_s: float
    frames: int
    wall_s: float
    slowest_chunk_ms: float
    resident_bytes: int | None
    device_bytes: int | None

    @property
    def frames_per_s(self) -> float:
        """Video frames made and consumed in a second."""
        return self.frames / self.wall_s

    def joined(self, following: Stretch) -> Stretch:
        """This stretch and the one after it as one."""
        return Stretch(
            start_s=self.start_s,
            frames=self.frames + following.frames,
            wall_s=self.wall_s + following.wall_s,
            slowest_chunk_ms=max(self.slowest_chunk_ms, following.slowest_chunk_ms),
            resident_bytes=largest(self.resident_bytes, following.resident_bytes),
            device_bytes=largest(self.device_bytes, following.device_bytes),
        )


class Stretches:
    """Collects chunks into stretches of equal length; when they become too many, of twice that.

    Args:
        length_s: seconds of video in a stretch, at first.
    """

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._kept: list[Stretch] = []

    def add(self, chunk: Stretch) -> None:
        """Take in a chunk, as a stretch of its own."""
        last = self._kept[-1] if self._kept else None
        if last is not None and self._number(last) == self._number(chunk):
            self._kept[-1] = last.joined(chunk)
            return
        if len(self._kept) == MAX_STRETCHES:
            pairs = zip(self._kept[::2], self._kept[1::2], strict=True)
            self._kept = [first.joined(second) for first, second in pairs]
            self._length_s *= 2
        self._kept.append(chunk)

    def read(self) -> tuple[Stretch, ...]:
        """The stretches so far, in order."""
        return tuple(self._kept)

    def _number(self, stretch: Stretch) -> int:
        return int(stretch.start_s // self._length_s)


def largest(*values: int | None) -> int | None:
    """The largest of the values that are known, None when none is."""
    return max((value for value in values if value is not None), default=None)
