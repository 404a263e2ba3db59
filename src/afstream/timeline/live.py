"""Cues typed while the stream runs, one a line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from afstream.geometry import ChunkClock
from afstream.timeline.cue import Cue
from afstream.timeline.directives import Directives
from afstream.timeline.grammar import read_cue, read_opening, refuse_lookalikes, with_suffix
from afstream.timeline.lines import LogicalLine, Place, logical_lines
from afstream.timeline.moment import Moment, clock_time
from afstream.timeline.words import WORD

SURROGATE = re.compile(r"[\ud800-\udfff]")
NOW = re.compile(r"now(?!\S)\s*")


@dataclass(slots=True)
class LiveReader:
    """Reads the grammar of a timeline line by line, with `now` among the times.

    A line without a time means now, and may begin with words. A relative time counts from now. A
    line cannot continue the one before.

    Attributes:
        clock: lengths of the stream's chunks and frames.
        source: the name of the input that errors begin with.
        directives: what `@` lines have given so far; seed and duration are for the player.
        line: number of the last line read.
    """

    clock: ChunkClock
    source: str = "stdin"
    directives: Directives = field(default_factory=Directives)
    line: int = 0

    @property
    def place(self) -> Place:
        """Where the last line begins."""
        return Place(self.source, self.line, 1)

    def read(self, text: str, now_s: float) -> Cue | None:
        """Read one line.

        Args:
            text: the line; bytes that are not UTF-8 are the surrogates of `surrogateescape`.
            now_s: the time of the next chunk, in seconds of video.

        Returns:
            The cue with an absolute start, or None for a directive, a comment or a blank line.

        Raises:
            TimelineError: the line is no cue, or its time is past; the reader can continue with the
                next line.
        """
        self.line += 1
        self._refuse_other_encodings(text)
        for line in logical_lines(text.strip(), self.source, first_line=self.line):
            if line.text.startswith("@"):
                self.directives.read(line)
            else:
                return self._read_cue(line, now_s)
        return None

    def _refuse_other_encodings(self, text: str) -> None:
        if found := SURROGATE.search(text):
            byte = ord(found[0]) & 0xFF
            raise self.place.moved(found.start()).error(
                f"byte 0x{byte:02x} is not UTF-8; prompts are UTF-8 text; send them in that"
                " encoding"
            )

    def _read_cue(self, line: LogicalLine, now_s: float) -> Cue:
        """Read a line that is not a directive."""
        now = Moment(now_s)
        if match := NOW.match(line.text):
            start, offset = now, match.end()
        else:
            written, offset = read_opening(line)
            if written is None and not WORD.match(line.text):
                refuse_lookalikes(line)
            start = self._from_now(written or now, now_s)
        if not start.counts_latents and start.in_seconds(self.clock) < now.value:
            raise line.place(0).error(
                f"{start} is past, the stream is at {clock_time(now.value)}; write a later time,"
                " or now"
            )
        cue = read_cue(line, start, offset, self.directives.names)
        return with_suffix(cue, self.directives.suffix)

    def _from_now(self, moment: Moment, now_s: float) -> Moment:
        """A relative moment counted from now, in seconds; an absolute one as it is."""
        if not moment.relative:
            return moment
        if moment.counts_latents:
            frames = moment.in_latents(self.clock) * self.clock.format.temporal_stride
            return Moment(now_s + frames / self.clock.fps)
        return Moment(now_s + moment.in_seconds(self.clock))
