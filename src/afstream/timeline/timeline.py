"""A timeline: the cues of one stream, and the settings that hold for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from afstream.errors import TimelineError
from afstream.geometry import ChunkClock
from afstream.timeline.cue import MAX_SEED, Cue
from afstream.timeline.grammar import parse, print_timeline
from afstream.timeline.lines import read_text
from afstream.timeline.moment import Moment, Unit
from afstream.timeline.plan import Plan, plan_cues


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Cues in the order of time; `plan` assigns them to the chunks of a stream.

    `str(timeline)` is its text, and `Timeline.parse` reads that back to an equal timeline.

    Attributes:
        cues: the first starts at 0, every other at least a chunk later than the one before.
        seed: seed of the noise, None when the player chooses.
        duration: length of the stream, None to end 10 s after the last cue takes effect.
        live: it records a live stream, in which a cue may break off a blend.
    """

    cues: tuple[Cue, ...]
    seed: int | None = None
    duration: Moment | None = None
    live: bool = False

    def __post_init__(self) -> None:
        """Refuse a timeline that no stream could play."""
        if not self.cues:
            raise TimelineError("a timeline has no cue; it needs at least one, at 0:00")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise TimelineError(f"seed is {self.seed}; it must be from 0 to {MAX_SEED}")
        if self.duration is not None and (self.duration.relative or not self.duration.value):
            raise TimelineError(f"duration is {self.duration}; it must be a time above 0:00")
        check_first(self.cues[0])

    def __str__(self) -> str:
        """The timeline as text, names and suffix written out."""
        return print_timeline(self.cues, seed=self.seed, duration=self.duration, live=self.live)

    @classmethod
    def parse(cls, text: str, *, source: str = "timeline.txt") -> Timeline:
        """Read the text of a timeline.

        Args:
            text: lines as docs/timeline.md describes them; a single prompt is one of 5 s.
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
        """Read a timeline file.

        Raises:
            TimelineError: the file cannot be read, or with line and column of the fault.
        """
        return cls.parse(read_text(path), source=str(path))

    @classmethod
    def from_applied(
        cls, applied: Iterable[tuple[int, Cue]], *, num_chunks: int, seed: int | None = None
    ) -> Timeline:
        """The timeline that replays what a live stream did.

        Args:
            applied: the chunk at which each cue took effect, and the cue, in that order; of two
                on one chunk the later counts.
            num_chunks: chunks that were made; a cue that would begin after them is left out.
            seed: seed of the stream.
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

    def continued(self, more: Timeline, *, chunk: int, clock: ChunkClock) -> Timeline:
        """This timeline up to the start of a chunk, and another one from there on.

        Args:
            more: its times count from that chunk; its seed becomes that of its first cue.
            chunk: above 0, and at most the number of chunks of this timeline.
            clock: lengths of chunks and frames.

        Raises:
            TimelineError: one of the two cannot be planned.
        """
        plan = self.plan(clock)
        before = [
            replace(planned.cue, start=Moment(planned.chunk, Unit.CHUNKS))
            for planned in plan.cues
            if planned.chunk < chunk
        ]
        frame = plan.frame_of_chunk(chunk)
        first, *rest = (
            replace(cue, start=cue.start.later(chunk, frame, clock)) for cue in more.cues
        )
        start = Moment(chunk, Unit.CHUNKS)
        seed = more.seed if first.seed is None else first.seed
        return Timeline(
            cues=(*before, replace(first, start=start, seed=seed), *rest),
            seed=self.seed,
            duration=more.duration and more.duration.later(chunk, frame, clock),
            live=True,
        )

    def cut(self, duration: Moment, clock: ChunkClock) -> Timeline:
        """This timeline up to a time; cues at or after it are left out.

        A blend that the end breaks off makes it a timeline of the live kind.

        Args:
            duration: length of the stream, instead of its own.
            clock: lengths of chunks and frames.

        Raises:
            TimelineError: the timeline cannot be planned.
        """
        first, *others = plan_cues(self.cues, clock, duration=None, live=self.live).cues
        kept = [first]
        for planned in others:
            if planned.chunk >= kept[-1].in_scene.chunk_at(duration):
                break
            kept.append(planned)
        last = kept[-1]
        broken_off = last.blend_chunks > last.in_scene.chunk_at(duration) - last.chunk
        return replace(
            self,
            cues=tuple(planned.cue for planned in kept),
            duration=duration,
            live=self.live or broken_off,
        )

    def plan(self, clock: ChunkClock) -> Plan:
        """Assign the cues to chunks.

        Args:
            clock: lengths of chunks and frames, `stream.clock` of the stream that will play it.

        Raises:
            TimelineError: two cues fall on one chunk or are out of order, a cue lies past the
                end, or a blend is longer than its prompt; with line and column of the cue.
        """
        return plan_cues(self.cues, clock, duration=self.duration, live=self.live)


def check_first(cue: Cue) -> None:
    """Refuse a first cue that does not start at 0."""
    if cue.start.relative:
        raise cue.place.error(
            f"the first cue starts at {cue.start}, and no cue is before it; write 0:00"
        )
    if cue.start.value:
        raise cue.place.error(
            f"the first cue starts at {cue.start}; a stream begins at 0:00; start the cue there,"
            " or add one before it"
        )
