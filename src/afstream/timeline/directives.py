"""Lines that begin with `@`: settings of the whole timeline, and names for texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from afstream.timeline.cue import MAX_TOTAL_CHARS, one_paragraph
from afstream.timeline.lines import LogicalLine, Place, shown
from afstream.timeline.moment import Moment
from afstream.timeline.words import NAME, perhaps, read_seed, substitute

KNOWN = ("@seed", "@duration", "@let", "@suffix", "@live")
DIRECTIVE = re.compile(r"(@\S*)\s*")
LET = re.compile(r"([^=\s]*)\s*=\s*")


@dataclass(slots=True)
class Directives:
    """The settings that the directives read so far have given.

    Attributes:
        seed: seed of the stream's noise, None when the player chooses.
        duration: length of the stream, None when the last cue decides.
        suffix: text appended to every prompt.
        live: the timeline records a live stream, in which a cue may break off a blend.
        names: texts that `{name}` stands for.
    """

    seed: int | None = None
    duration: Moment | None = None
    suffix: str = ""
    live: bool = False
    names: dict[str, str] = field(default_factory=dict[str, str])
    _places: dict[str, Place] = field(default_factory=dict[str, Place])
    _num_chars: int = 0

    def read(self, line: LogicalLine) -> None:
        """Read one directive; after an error nothing has changed."""
        match = DIRECTIVE.match(line.text)
        assert match, "the caller looked for the @"  # noqa: S101 - not the user's mistake
        name, end = match[1], match.end()
        value, value_place = line.text[end:], line.place(end)
        if name == "@let":
            self._read_let(line, end)
            return
        self._once(name, line.place(0))
        if name == "@seed":
            self.seed = read_seed(value, value_place)
        elif name == "@duration":
            self.duration = read_duration(value, value_place)
        elif name == "@suffix":
            self.suffix = self._read_text(line, end)
        elif name != "@live":
            raise line.place(0).error(
                f"unknown directive {shown(name)}; allowed are {', '.join(KNOWN)}"
                f"{perhaps(name, KNOWN)}; write '|' before a prompt that begins with '@'"
            )
        elif value:
            raise value_place.error(f"found {shown(value)}; @live takes no value; remove it")
        else:
            self.live = True
        self._places[name] = line.place(0)

    def _read_let(self, line: LogicalLine, start: int) -> None:
        """Read `name = text`; the text may use names given above."""
        match = LET.match(line.text, start)
        if match is None or not NAME.fullmatch(match[1]):
            raise line.place(start).error(
                f"found {shown(line.text[start:])}; write a name of letters, digits and _, then"
                " the text, as in '@let fox = a red fox'"
            )
        self._once(match[1], line.place(start))
        text = self._read_text(line, match.end())
        self._num_chars += len(text)
        if self._num_chars > MAX_TOTAL_CHARS:
            raise line.place(start).error(
                f"the texts of names have more than {MAX_TOTAL_CHARS:,} characters; shorten them"
            )
        self.names[match[1]] = text
        self._places[match[1]] = line.place(start)

    def _read_text(self, line: LogicalLine, start: int) -> str:
        """The text from an offset on, with names replaced; it must not be empty."""
        text = substitute(line.text[start:], self.names, lambda at: line.place(start + at))
        if paragraph := one_paragraph(text):
            return paragraph
        raise line.place(start).error("found no text; write one, or remove the line")

    def _once(self, what: str, place: Place) -> None:
        """Refuse a directive or a name that was given before."""
        if what in self._places:
            raise place.error(
                f"{what!r} is given here again, after line {self._places[what].line}; remove one"
            )


def read_duration(text: str, place: Place) -> Moment:
    """The value of `@duration`: any absolute time, brackets optional."""
    moment = Moment.parse(text) or Moment.parse(f"[{text}]")
    if moment is None or moment.relative or not moment.value:
        raise place.error(
            f"duration is {shown(text)}; write a time above 0, such as 1:00, 12.5s, 160f, 40l or"
            " 13c"
        )
    return moment
