"""Cues typed while the stream runs, one a line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from afstream.geometry import FPS, TEMPORAL_STRIDE
from afstream.timeline.cue import Cue
from afstream.timeline.directives import Directives
from afstream.timeline.lines import LogicalLine, logical_lines
from afstream.timeline.moment import Moment, clock
from afstream.timeline.parser import read_cue, read_opening, with_suffix
from afstream.timeline.snap import counts_latents, in_latents, in_seconds

NOW = re.compile(r"now(?!\S)\s*")
LATENT_S = TEMPORAL_STRIDE / FPS


@dataclass(slots=True)
class LiveReader:
    """Reads the grammar of a timeline line by line, with `now` among the times.

    A line without a time means now, and may begin with words. A relative time counts from
    now. Lines do not continue each other.

    Attributes:
        source: what errors call the input.
        directives: what `@` lines have said so far; the player looks at seed and duration.
        line: number of the last line read.
    """

    source: str = "stdin"
    directives: Directives = field(default_factory=Directives)
    line: int = 0

    def read(self, text: str, now_s: float) -> Cue | None:
        """Take in one line.

        Args:
            text: the line.
            now_s: the time of the next chunk, in seconds of video.

        Returns:
            The cue with an absolute start, or None for a directive, a comment or a blank line.

        Raises:
            TimelineError: the line is no cue, or asks for a time that is past; the reader can
                go on with the next one.
        """
        self.line += 1
        for line in logical_lines(text.strip(), self.source, first_line=self.line):
            if line.text.startswith("@"):
                self.directives.read(line)
            else:
                return self._read_cue(line, now_s)
        return None

    def _read_cue(self, line: LogicalLine, now_s: float) -> Cue:
        """A line that is not a directive."""
        now = Moment(now_s)
        if match := NOW.match(line.text):
            start, offset = now, match.end()
        else:
            opening = read_opening(line)
            start, offset = from_now(opening.start or now, now_s), opening.end
        if not counts_latents(start) and in_seconds(start) < now.value:
            raise line.place(0).error(
                f"{start} is past, the stream is at {clock(now.value)}; write a later time, or now"
            )
        cue = read_cue(line, start, offset, self.directives.names)
        return with_suffix(cue, self.directives.suffix)


def from_now(moment: Moment, now_s: float) -> Moment:
    """A relative moment counted from now, in seconds; an absolute one as it is."""
    if not moment.relative:
        return moment
    if counts_latents(moment):
        return Moment(now_s + in_latents(moment) * LATENT_S)
    return Moment(now_s + in_seconds(moment))
