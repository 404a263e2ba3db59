"""Cues to the text of a timeline, in the one form that is printed."""

from __future__ import annotations

from collections.abc import Iterable

from afstream.timeline.cue import Cue
from afstream.timeline.moment import Moment, decimal
from afstream.timeline.names import escape_braces
from afstream.timeline.words import WORD, quote_note

# Prompts line up behind times and words of up to this width.
HEAD_WIDTH = 19


def print_timeline(
    cues: Iterable[Cue], *, seed: int | None, duration: Moment | None, live: bool
) -> str:
    """The text that parses back to these cues and directives."""
    lines: list[str] = []
    if seed is not None:
        lines.append(f"@seed {seed}")
    if duration is not None:
        lines.append(f"@duration {duration}")
    if live:
        lines.append("@live")
    if lines:
        lines.append("")
    lines.extend(print_cue(cue) for cue in cues)
    return "\n".join(lines) + "\n"


def print_cue(cue: Cue) -> str:
    """One cue on one line; names and suffix are already in its prompt."""
    head = " ".join([str(cue.start), *print_words(cue)])
    # A bar keeps a prompt that begins like a word from being read as one.
    bar = "| " if WORD.match(cue.prompt) else ""
    return f"{head:<{HEAD_WIDTH}} {bar}{escape_braces(cue.prompt)}"


def print_words(cue: Cue) -> Iterable[str]:
    """The words that say more than the defaults do."""
    if cue.transition != "switch":
        yield cue.transition
    if cue.blend_s:
        yield f"blend={decimal(cue.blend_s)}s"
    if cue.seed is not None:
        yield f"seed={cue.seed}"
    if cue.note:
        yield f"note={quote_note(cue.note)}"
