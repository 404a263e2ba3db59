"""A stream of any length as a short list of stretches."""

from __future__ import annotations

from collections.abc import Sequence

from afstream.bench.footprint import largest
from afstream.bench.result import Stretch

# Even, so that all of them can be joined in pairs.
MAX_STRETCHES = 240


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
            self._kept[-1] = join((last, chunk))
            return
        if len(self._kept) == MAX_STRETCHES:
            self._kept = [join(self._kept[at : at + 2]) for at in range(0, MAX_STRETCHES, 2)]
            self._length_s *= 2
        self._kept.append(chunk)

    def read(self) -> tuple[Stretch, ...]:
        """The stretches so far, in order."""
        return tuple(self._kept)

    def _number(self, stretch: Stretch) -> int:
        return int(stretch.start_s // self._length_s)


def join(parts: Sequence[Stretch]) -> Stretch:
    """One stretch out of neighbouring ones."""
    return Stretch(
        start_s=parts[0].start_s,
        frames=sum(part.frames for part in parts),
        wall_s=sum(part.wall_s for part in parts),
        slowest_chunk_ms=max(part.slowest_chunk_ms for part in parts),
        resident_bytes=largest([part.resident_bytes for part in parts]),
        device_bytes=largest([part.device_bytes for part in parts]),
    )
