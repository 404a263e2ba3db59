"""Parses the text of a timeline, and prints a timeline in one canonical form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from afstream.errors import TimelineError
from afstream.timeline.cue import MAX_CUES, MAX_TOTAL_CHARS, Cue, one_paragraph
from afstream.timeline.directives import Directives
from afstream.timeline.lines import LogicalLine, Place, logical_lines, shown
from afstream.timeline.lookalikes import Fault, timed_fault, untimed_fault
from afstream.timeline.moment import TIME_FORMS, Moment, Unit, decimal
from afstream.timeline.words import WORD, escape_braces, quote_note, read_words, substitute

UNTIMED_CUE_S = 5.0
# Text that begins like this is meant as a time, so anything else in it is an error.
TIME = re.compile(r"(\[[^\]]*\]?|[0-9]+:[0-9]\S*)\s*")
BARE_NUMBER = re.compile(r"\+?[0-9]+(\.[0-9]+)?[sflc]?")
# Prompts are aligned after times and words of up to this width.
HEAD_WIDTH = 19


def parse(text: str, source: str) -> tuple[tuple[Cue, ...], Directives]:
    """Read a whole timeline; `Timeline.plan` checks whether its cues fit together."""
    directives = Directives()
    timed: list[Cue] = []
    untimed: list[Cue] = []
    num_chars = 0
    for line in logical_lines(text, source):
        refuse_indented_times(line)
        if line.text.startswith("@"):
            directives.read(line)
            continue
        start, end = read_opening(line)
        if start is None:
            untimed.append(read_untimed(line, directives.names))
        else:
            timed.append(read_cue(line, start, end, directives.names))
        num_cues = len(timed) + len(untimed)
        num_chars += len((untimed if start is None else timed)[-1].prompt)
        check_amount(num_cues, num_chars + num_cues * len(directives.suffix), line.place(0))
    if not timed and not untimed:
        raise Place(source, 1, 1).error(
            "found no cue; a timeline has at least one; write '0:00' and what to show"
        )
    if timed and untimed:
        raise no_time(untimed[0], timed[0])
    if untimed:
        directives.duration = directives.duration or Moment(UNTIMED_CUE_S * len(untimed))
        timed = spread(untimed, directives.duration)
    return tuple(with_suffix(cue, directives.suffix) for cue in timed), directives


def check_amount(num_cues: int, num_chars: int, place: Place) -> None:
    """Refuse more cues than a stream can be planned for at once, or more text.

    Args:
        num_cues: cues so far.
        num_chars: characters of their prompts.
        place: where the last of them stands.
    """
    for count, most, what in (
        (num_cues, MAX_CUES, "cues"),
        (num_chars, MAX_TOTAL_CHARS, "characters of prompts, names' texts put in"),
    ):
        if count > most:
            raise place.error(f"more than {most:,} {what}; split it into several timelines")


def read_opening(line: LogicalLine) -> tuple[Moment | None, int]:
    """The time at the start of a line, None if there is none, and the offset after it."""
    match = TIME.match(line.text)
    if match is None:
        return None, 0
    start = Moment.parse(match[1])
    if start is None:
        refuse_lookalikes(line)
        raise line.place(0).error(
            f"{shown(match[1])} is not a time; times are {TIME_FORMS}, minutes and seconds below"
            " 60; write '|' before a prompt that begins like one"
        )
    return start, match.end()


def read_cue(line: LogicalLine, start: Moment, offset: int, names: Mapping[str, str]) -> Cue:
    """Read words and prompt from `offset` on."""
    words, end = read_words(line, offset)
    if not line.text[offset:end].rstrip().endswith("|"):
        refuse(line, end, timed_fault(line.text[end:]))
    prompt = read_prompt(line, end, names)
    return Cue(start=start, prompt=prompt, place=line.place(0), **words)


def read_untimed(line: LogicalLine, names: Mapping[str, str]) -> Cue:
    """Read a line that is all prompt; words would need a time before them."""
    offset = 1 if line.text.startswith("|") else 0
    if not offset:
        refuse_lookalikes(line)
    return Cue(start=Moment(0), prompt=read_prompt(line, offset, names), place=line.place(0))


def refuse_lookalikes(line: LogicalLine) -> None:
    """Refuse a line without a time that looks like anything but a prompt."""
    refuse(line, 0, untimed_fault(line.text))


def refuse(line: LogicalLine, offset: int, fault: Fault | None) -> None:
    """Raise the fault of a text that begins at `offset`, if there is one."""
    if fault is not None:
        raise line.place(offset + fault.offset).error(fault.message)


def refuse_indented_times(line: LogicalLine) -> None:
    """Refuse a line that continues a prompt and begins with a time."""
    for offset, place in line.starts[1:]:
        match = TIME.match(line.text, offset)
        if match and Moment.parse(match[1]):
            raise place.error(
                f"found {shown(match[1])} on an indented line, which continues the prompt above;"
                " remove the blanks before the time, or break the prompt at another word"
            )


def read_prompt(line: LogicalLine, offset: int, names: Mapping[str, str]) -> str:
    """The prompt from `offset` to the end of the line, names replaced."""
    prompt = substitute(line.text[offset:], names, lambda at: line.place(offset + at))
    if one_paragraph(prompt):
        return prompt
    raise line.place(len(line.text)).error(
        "found no prompt; a cue needs one; write what to show here or on indented lines"
    )


def no_time(untimed: Cue, timed: Cue) -> TimelineError:
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


def print_timeline(
    cues: Iterable[Cue], *, seed: int | None, duration: Moment | None, live: bool
) -> str:
    """The text that parses back to these cues and directives."""
    directives = [
        *([f"@seed {seed}"] if seed is not None else []),
        *([f"@duration {duration}"] if duration is not None else []),
        *(["@live"] if live else []),
    ]
    head = [*directives, ""] if directives else []
    return "".join(f"{line}\n" for line in [*head, *map(print_cue, cues)])


def print_cue(cue: Cue) -> str:
    """One cue on one line; names and suffix are already in its prompt."""
    head = " ".join([str(cue.start), *words_of(cue)])
    bar = "| " if WORD.match(cue.prompt) or timed_fault(cue.prompt) else ""
    return f"{head:<{HEAD_WIDTH}} {bar}{escape_braces(cue.prompt)}"


def words_of(cue: Cue) -> Iterator[str]:
    """The words of a cue that differ from the defaults, as a timeline writes them."""
    if cue.transition != "switch":
        yield cue.transition
    if cue.blend_s:
        yield f"blend={decimal(cue.blend_s)}s"
    if cue.seed is not None:
        yield f"seed={cue.seed}"
    if cue.note:
        yield f"note={quote_note(cue.note)}"
