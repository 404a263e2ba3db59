"""Files of prompts in every format that can be read: one module and one row of `IMPORTS` each."""

from __future__ import annotations

from collections.abc import Sequence

from afstream.errors import TimelineError
from afstream.timeline.imports.base import (
    ImportOptions,
    PromptFile,
    TextImport,
    TimelineImport,
)
from afstream.timeline.imports.jsonl import JsonlImport
from afstream.timeline.imports.record import RecordImport
from afstream.timeline.timeline import Timeline

__all__ = ["IMPORTS", "ImportOptions", "PromptFile", "TimelineImport", "find_import", "pick_line"]

# Asked in this order; the last one takes every file that no other recognises.
IMPORTS: tuple[TimelineImport, ...] = (RecordImport(), JsonlImport(), TextImport())


def find_import(file: PromptFile) -> TimelineImport:
    """The import for a file: by its suffix, otherwise the first that recognises its content."""
    suffix = file.path.suffix.lower()
    by_suffix = (kind for kind in IMPORTS if suffix in kind.suffixes)
    by_content = (kind for kind in IMPORTS if kind.recognises(file))
    return next(by_suffix, None) or next(by_content)


def pick_line(timelines: Sequence[Timeline], line: int) -> Timeline:
    """The timeline that stands on a line of its file."""
    lines = [timeline.cues[0].line for timeline in timelines]
    if line in lines:
        return timelines[lines.index(line)]
    source = timelines[0].cues[0].place.source
    raise TimelineError(
        f"no prompts on line {line}; lines {lines[0]} to {lines[-1]} hold them; choose one",
        source=source,
    )
