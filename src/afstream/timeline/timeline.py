"""A timeline: the cues of one stream, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from afstream.errors import TimelineError
from afstream.timeline.cue import MAX_SEED, Cue
from afstream.timeline.lines import decode
from afstream.timeline.moment import Moment, Unit
from afstream.timeline.parser import parse
from afstream.timeline.plan import Plan, plan_cues
from afstream.timeline.printer import print_timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Cues in the order of time; one that cannot be played cannot be made.

    `str(timeline)` is its text, and `Timeline.parse` reads that back to an equal timeline.

    Attributes:
        cues: the first starts at 0, every other at least a chunk later than the one before.
        seed: of the noise, None when the player chooses.
        duration: of the whole stream, None to end 10 s after the last cue takes effect.
        live: it records a live stream, in which a cue may break off a blend.
    """

    cues: tuple[Cue, ...]
    seed: int | None = None
    duration: Moment | None = None
    live: bool = False

    def __post_init__(self) -> None:
        """Refuse cues that do not fit together."""
        if not self.cues:
            raise TimelineError("a timeline has no cue; it needs at least one, at 0:00")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise TimelineError(f"seed is {self.seed}; it must be from 0 to {MAX_SEED}")
        if self.duration is not None and (self.duration.relative or not self.duration.value):
            raise TimelineError(f"duration is {self.duration}; it must be a time above 0:00")
        self.plan()

    def __str__(self) -> str:
        """The timeline as text, names and suffix written out."""
        return print_timeline(self.cues, seed=self.seed, duration=self.duration, live=self.live)

    @classmethod
    def parse(cls, text: str, *, source: str = "timeline.txt") -> Timeline:
        """Read the text of a timeline.

        Args:
            text: see docs/timeline.md.
            source: the file name that errors begin with.

        Raises:
            TimelineError: with line and column of the fault.
        """
        cues, directives = parse(text, source)
        return cls(
            cues=cues,
            seed=directives.seed,
            duration=directives.duration,
            live=directives.live,
        )

    @classmethod
    def read(cls, path: str | Path) -> Timeline:
        """Read a timeline file."""
        return cls.parse(read_text(path), source=str(path))

    @classmethod
    def from_applied(
        cls, applied: Iterable[tuple[int, Cue]], *, num_chunks: int, seed: int | None = None
    ) -> Timeline:
        """The timeline that replays what a live stream did.

        Args:
            applied: the chunk at which each cue took effect, and the cue, in that order; of two
                on one chunk the later counts.
            num_chunks: chunks that were made; a cue that was to begin after them is left out.
            seed: of the stream.
        """
        cues = {
            chunk: replace(cue, start=Moment(chunk, Unit.CHUNKS))
            for chunk, cue in applied
            if chunk < num_chunks
        }
        return cls(
            cues=tuple(cues.values()),
            seed=seed,
            duration=Moment(num_chunks, Unit.CHUNKS),
            live=True,
        )

    def plan(self) -> Plan:
        """Put the cues on chunks."""
        return plan_cues(self.cues, duration=self.duration, live=self.live)


def read_text(path: str | Path) -> str:
    """The text of a file, which must be UTF-8."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TimelineError(
            f"cannot read it: {error.strerror}; give the path of a text file", source=str(path)
        ) from error
    return decode(data, str(path))
