"""The time requested for a cue, in any of the units that a timeline knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import ceil

from afstream.errors import TimelineError
from afstream.geometry import ChunkClock

TIME_FORMS = "0:10, 1:02:03.5, [12.5s], [+8s], [160f], [40l] or [13c]"
LIMIT = 1_000_000_000
# Microseconds, so that decimal sums such as 1.1 + 2.2 come back to what they write.
DIGITS = 6
MINUTE_S = 60
HOUR_S = 3600

CLOCK = re.compile(r"(?:([0-9]{1,6}):(?=[0-9]{2}:))?([0-9]{1,7}):([0-9]{2}(?:\.[0-9]{1,6})?)")
BRACKET = re.compile(r"\[(\+?)([0-9]{1,9})((?:\.[0-9]{1,6})?)([sflc])\]")


class Unit(Enum):
    """The unit of a moment; its letter is written in brackets."""

    SECONDS = "s"
    VIDEO_FRAMES = "f"
    LATENT_FRAMES = "l"
    CHUNKS = "c"


@dataclass(frozen=True, slots=True)
class Moment:
    """A time counted from the start of the stream, or from the previous cue.

    Attributes:
        value: number of units; seconds are rounded to the microsecond, the others are whole.
        unit: what is counted.
        relative: counted from the previous cue (`[+8s]`).
    """

    value: float
    unit: Unit = Unit.SECONDS
    relative: bool = False

    def __post_init__(self) -> None:
        """Round to the microsecond and refuse what no timeline can print."""
        # Adding 0.0 turns minus zero, which would print a sign, into zero.
        value = round(float(self.value), DIGITS) + 0.0
        if not 0 <= value < LIMIT:
            raise TimelineError(f"a time is {self.value}; it must be from 0 to below {LIMIT}")
        if self.unit is not Unit.SECONDS and not value.is_integer():
            raise TimelineError(
                f"a time is {self.value} {self.unit.name.lower()}; only seconds may have a fraction"
            )
        object.__setattr__(self, "value", value)

    def __str__(self) -> str:
        """The moment as a timeline writes it: `0:10`, or in brackets."""
        if self.unit is Unit.SECONDS and not self.relative:
            return clock_time(self.value)
        return f"[{'+' if self.relative else ''}{decimal(self.value)}{self.unit.value}]"

    @classmethod
    def parse(cls, text: str) -> Moment | None:
        """The moment that `text` writes, or None when it is not a time."""
        if match := CLOCK.fullmatch(text):
            hours, minutes, seconds = int(match[1] or 0), int(match[2]), float(match[3])
            if seconds >= MINUTE_S or (match[1] and minutes >= MINUTE_S):
                return None
            total = hours * HOUR_S + minutes * MINUTE_S + seconds
            return cls(total) if total < LIMIT else None
        if match := BRACKET.fullmatch(text):
            unit = Unit(match[4])
            if match[3] and unit is not Unit.SECONDS:
                return None
            return cls(float(match[2] + match[3]), unit, relative=bool(match[1]))
        return None

    @property
    def counts_latents(self) -> bool:
        """Whether the moment is written in latent frames or chunks."""
        return self.unit in (Unit.LATENT_FRAMES, Unit.CHUNKS)

    def in_latents(self, clock: ChunkClock) -> int:
        """Latent frames of a moment that is written in latent frames or chunks."""
        return int(self.value) * (clock.chunk_frames if self.unit is Unit.CHUNKS else 1)

    def later(self, chunk: int, frame: int, clock: ChunkClock) -> Moment:
        """The moment counted from the stream's start, if this one counts from a chunk of it.

        Args:
            chunk: that chunk.
            frame: its first video frame.
            clock: lengths of chunks and frames.
        """
        if self.relative:
            return self
        if self.unit is Unit.CHUNKS:
            return Moment(self.value + chunk, self.unit)
        if self.unit is Unit.LATENT_FRAMES:
            return Moment(self.value + chunk * clock.chunk_frames, self.unit)
        # whole frames, because seconds of a chunk's start are not exact at every frame rate
        frames = ceil(round(self.in_seconds(clock) * clock.fps, DIGITS))
        return Moment(frames + frame, Unit.VIDEO_FRAMES)

    def in_seconds(self, clock: ChunkClock) -> float:
        """Seconds of a moment that is written in seconds or video frames."""
        return self.value / (clock.fps if self.unit is Unit.VIDEO_FRAMES else 1)


def decimal(value: float) -> str:
    """A number without exponent and trailing zeros: 12.5, 8."""
    return f"{value:.{DIGITS}f}".rstrip("0").rstrip(".")


def clock_time(seconds: float) -> str:
    """Seconds as `0:10`, `0:12.5` or `1:02:03.5`."""
    # In whole microseconds, since float remainders would print 59.999999 for a full minute.
    micro = round(seconds * 10**DIGITS)
    minutes, rest = divmod(micro, MINUTE_S * 10**DIGITS)
    whole, fraction = divmod(rest, 10**DIGITS)
    hours, minutes = divmod(minutes, HOUR_S // MINUTE_S)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    tail = f".{fraction:0{DIGITS}}".rstrip("0").rstrip(".")
    return f"{head}:{whole:02}{tail}"
