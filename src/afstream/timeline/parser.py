"""The text of a timeline to its cues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from afstream.timeline.cue import Cue, one_paragraph
from afstream.timeline.directives import Directives
from afstream.timeline.lines import LogicalLine, logical_lines
from afstream.timeline.moment import TIME_FORMS, Moment, Unit
from afstream.timeline.names import substitute
from afstream.timeline.place import Place, shown
from afstream.timeline.words import read_words

UNTIMED_CUE_S = 5.0
# What begins like this is meant as a time; if it is none, the user hears of it.
TIME = re.compile(r"(\[[^\]]*\]?|[0-9]+:[0-9]\S*)\s*")
BARE_NUMBER = re.compile(r"\+?[0-9]+(\.[0-9]+)?[sflc]?")
START = Moment(0)


class Parsed(NamedTuple):
    """All that a timeline's text says."""

    cues: tuple[Cue, ...]
    directives: Directives


class Opening(NamedTuple):
    """The time that opens a line, None if there is none, and the offset of what follows."""

    start: Moment | None
    end: int


def parse(text: str, source: str) -> Parsed:
    """Read a whole timeline; how its cues fit together is for the plan to check."""
    directives = Directives()
    timed: list[Cue] = []
    untimed: list[Cue] = []
    for line in logical_lines(text, source):
        if line.text.startswith("@"):
            directives.read(line)
            continue
        opening = read_opening(line)
        if opening.start is None:
            untimed.append(read_untimed(line, directives.names))
        else:
            timed.append(read_cue(line, opening.start, opening.end, directives.names))
    if not timed and not untimed:
        raise Place(source, 1, 1).error(
            "found no cue; a timeline has at least one; write '0:00' and what is to be seen"
        )
    if timed and untimed:
        raise no_time(untimed[0], timed[0])
    if untimed:
        directives.duration = directives.duration or Moment(UNTIMED_CUE_S * len(untimed))
        timed = spread(untimed, directives.duration)
    return Parsed(tuple(with_suffix(cue, directives.suffix) for cue in timed), directives)


def read_opening(line: LogicalLine) -> Opening:
    """Read the time at the start of a line."""
    match = TIME.match(line.text)
    if match is None:
        return Opening(None, 0)
    start = Moment.parse(match[1])
    if start is None:
        raise line.place(0).error(
            f"{shown(match[1])} is not a time; times are {TIME_FORMS}, minutes and seconds below"
            " 60; write '|' before a prompt that begins like one"
        )
    return Opening(start, match.end())


def read_cue(line: LogicalLine, start: Moment, offset: int, names: Mapping[str, str]) -> Cue:
    """Read words and prompt from `offset` on."""
    words = read_words(line, offset)
    return Cue(
        start=start,
        prompt=read_prompt(line, words.end, names),
        transition=words.transition,
        blend_s=words.blend_s,
        seed=words.seed,
        note=words.note,
        place=line.place(0),
        blend_place=words.blend_place,
    )


def read_untimed(line: LogicalLine, names: Mapping[str, str]) -> Cue:
    """Read a line that is all prompt; words would need a time before them."""
    offset = 1 if line.text.startswith("|") else 0
    return Cue(start=START, prompt=read_prompt(line, offset, names), place=line.place(0))


def read_prompt(line: LogicalLine, offset: int, names: Mapping[str, str]) -> str:
    """The prompt from `offset` to the end of the line, names replaced."""
    prompt = substitute(line.text[offset:], names, lambda at: line.place(offset + at))
    if one_paragraph(prompt):
        return prompt
    raise line.place(len(line.text)).error(
        "found no prompt; a cue needs one; write what is to be seen here or on indented lines"
    )


def no_time(untimed: Cue, timed: Cue) -> Exception:
    """The error for a line without a time in a timeline that has times."""
    first = untimed.prompt.split()[0]
    advice = (
        f"{shown(first)} alone is text, write 0:12 or [12s]"
        if BARE_NUMBER.fullmatch(first)
        else "begin it with a time, or indent it to continue the line above"
    )
    return untimed.place.error(
        f"found a line without a time; line {timed.line} has one, so every cue needs one; {advice}"
    )


def spread(cues: Sequence[Cue], duration: Moment) -> list[Cue]:
    """Give cues without times equal shares of the duration."""

    def share(index: int) -> float:
        exact = duration.value * index / len(cues)
        return exact if duration.unit is Unit.SECONDS else exact // 1

    return [replace(cue, start=Moment(share(i), duration.unit)) for i, cue in enumerate(cues)]


def with_suffix(cue: Cue, suffix: str) -> Cue:
    """The cue with the `@suffix` text after its prompt."""
    return replace(cue, prompt=f"{cue.prompt} {suffix}")
