"""The results of a measurement, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afstream.bench.load import Load
from afstream.bench.machine import Machine
from afstream.bench.series import Spread, Stretch

# The ends of a stream that are compared to see whether it slows down.
END_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFrame:
    """Milliseconds to the first decoded frames.

    Attributes:
        open_ms: reading the model and making the stream.
        cold_ms: from the first prompt on, in a stream that has just been opened.
        warm_up_ms: all chunks, the first among them, during which something was loaded, compiled
            or captured for later ones.
        warm_ms: from a cut in a running stream, the median of a few; a chunk that was submitted
            ahead comes first. None when the measurement was stopped.
    """

    open_ms: float
    cold_ms: float
    warm_up_ms: float
    warm_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Video frames a second.

    Attributes:
        denoise: per second of the backbone: denoise steps, context passes, re-caches.
        decode: per second of the decoder. On a GPU both run at the same time and slow each other
            down, so each would be faster alone.
        end_to_end: per second of wall time, from the request for a chunk until it is consumed.
        times_real_time: `end_to_end` relative to the rate at which the video plays.
    """

    denoise: float
    decode: float
    end_to_end: float
    times_real_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One stream, measured. Chunks that warm it up, such as the first, count in `first_frame` only.

    Attributes:
        load: what was measured.
        machine: the machine and its software.
        model: the model's own details, with its name, device, dtype and parameters.
        size: width and height of the frames, px.
        fps: rate at which the video plays.
        chunks: chunks timed.
        frames: video frames timed.
        wall_s: seconds that they took, consumer included.
        cpu_s: processor seconds of all threads meanwhile; below `wall_s` times the threads in
            use when other processes took the cores.
        first_frame: latency at the start.
        switch_ms: from the request of a prompt, between two chunks, to the first frame under it. A
            request that comes while a chunk is made, or was submitted ahead, waits for that chunk
            as well.
        parts_ms: of a chunk: `denoise`, `recache` (of chunks that begin a prompt), `context`
            and `decode`, on a GPU partly at the same time; in `total` how long it was waited
            for, in `consume` what the consumer took; `all` is these two together. See
            `ChunkTiming`.
        rates: video frames a second.
        outside_model: share of the time in which neither backbone nor decoder worked.
        in_consumer: share of the time that the consumer took. Part of `outside_model`, but for
            a stream that runs ahead on a GPU: there the next chunk is made meanwhile.
        resident_bytes: most memory of the process; None where unknown.
        device_bytes: most memory that tensors took on the GPU; None on a CPU.
        memory_estimate: the estimate made before loading, whose `tensor_bytes` are what
            `device_bytes` measures. None where there was no GPU to fit.
        stretches: speed and memory along the video.
        complete: whether the whole duration was made.
    """

    load: Load
    machine: Machine
    model: dict[str, Any]
    size: tuple[int, int]
    fps: int
    chunks: int
    frames: int
    wall_s: float
    cpu_s: float
    first_frame: FirstFrame
    switch_ms: Spread
    parts_ms: dict[str, Spread]
    rates: Rates
    outside_model: float
    in_consumer: float
    resident_bytes: int | None
    device_bytes: int | None
    memory_estimate: dict[str, Any] | None
    stretches: tuple[Stretch, ...]
    complete: bool

    @property
    def late_to_early(self) -> float | None:
        """Speed in the last quarter relative to the first; 1 is flat, None if too short."""
        early, late = self._ends()
        return _speed(late) / _speed(early) if early else None

    @property
    def growth_bytes(self) -> int | None:
        """Bytes of memory that the last quarter held beyond the first; None if too short."""
        early, late = (
            [part.resident_bytes for part in end if part.resident_bytes is not None]
            for end in self._ends()
        )
        return max(late) - max(early) if early and late else None

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON, derived figures included."""
        data = asdict(self)
        for plain, stretch in zip(data["stretches"], self.stretches, strict=True):
            plain["frames_per_s"] = round(stretch.frames_per_s, 2)
        load = data.pop("load")
        return {
            "setup": {**load.pop("stream"), **load},
            **data,
            "late_to_early": self.late_to_early,
            "growth_bytes": self.growth_bytes,
        }

    def _ends(self) -> tuple[Sequence[Stretch], Sequence[Stretch]]:
        """The first and the last quarter of the stretches."""
        count = len(self.stretches) // END_SHARE
        return (self.stretches[:count], self.stretches[-count:]) if count else ((), ())


def _speed(stretches: Sequence[Stretch]) -> float:
    return sum(part.frames for part in stretches) / sum(part.wall_s for part in stretches)
