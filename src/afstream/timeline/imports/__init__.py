"""Files of prompts in every format that can be read: one module and one row of `IMPORTS` each."""

from __future__ import annotations

from afstream.timeline.imports.base import (
    Imported,
    ImportOptions,
    PromptFile,
    TextImport,
    TimelineImport,
)
from afstream.timeline.imports.jsonl import JsonlImport
from afstream.timeline.imports.others import OTHER_TOOLS
from afstream.timeline.imports.record import RecordImport

__all__ = ["IMPORTS", "ImportOptions", "Imported", "PromptFile", "TimelineImport", "find_import"]

# Asked in this order; the last one takes every file that no other recognises.
IMPORTS: tuple[TimelineImport, ...] = (RecordImport(), JsonlImport(), *OTHER_TOOLS, TextImport())


def find_import(file: PromptFile) -> TimelineImport:
    """The import for a file: by its suffix, otherwise the first that recognises its content."""
    suffix = file.path.suffix.lower()
    by_suffix = (kind for kind in IMPORTS if suffix in kind.suffixes)
    by_content = (kind for kind in IMPORTS if kind.recognises(file))
    return next(by_suffix, None) or next(by_content)
