"""Values and stretches of a stream, few enough to keep however long it runs."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

DIGITS = 3
# Even, so that all of them can be merged in pairs.
MAX_STRETCHES = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Distribution of a series in its own unit; all zero for an empty series.

    Attributes:
        count: number of values.
        mean: of all values.
        median: half of the values are not above it.
        p95: 95 of 100 values are not above it.
        max: the largest value.
    """

    count: int
    mean: float
    median: float
    p95: float
    max: float


class Series:
    """Keeps every value, 8 bytes each, so that none of many stalls is missed."""

    def __init__(self) -> None:
        self._values = array("d")

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self._values)

    @property
    def total(self) -> float:
        """Sum of the values."""
        return math.fsum(self._values)

    def add(self, value: float) -> None:
        """Add a value."""
        self._values.append(value)

    def spread(self) -> Spread:
        """Mean, percentiles and maximum."""
        ordered = sorted(self._values) or [0.0]
        median, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
        return Spread(
            count=self.count,
            mean=round(self.total / max(self.count, 1), DIGITS),
            median=round(median, DIGITS),
            p95=round(p95, DIGITS),
            max=round(ordered[-1], DIGITS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch of the video: how fast it was made and how much memory was held.

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
        """This stretch and the one after it, merged into one."""
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
        """Add a chunk, given as a stretch of its own."""
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
