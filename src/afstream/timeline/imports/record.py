"""Run records of afstream as timelines: what a film was made from, ready to be made again."""

from __future__ import annotations

import json
import re
from typing import Any

from afstream.timeline.imports.base import Imported, ImportOptions, PromptFile
from afstream.timeline.lines import Place
from afstream.timeline.timeline import Timeline

RECORD = re.compile(r'\s*\{\s*"afstream_record"\s*:')


class RecordImport:
    """The timeline that a run record holds, its seed and length included."""

    name: str = "a run record"
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def recognises(self, file: PromptFile) -> bool:
        """Whether it begins as afstream begins a record."""
        return RECORD.match(file.text) is not None

    def read(self, file: PromptFile, options: ImportOptions) -> Imported:
        """The one timeline of the record."""
        place = Place(str(file.path), 1, 1)
        try:
            content: Any = json.loads(file.text)
        except (ValueError, RecursionError) as error:
            raise place.error("the run record is damaged; it is no JSON") from error
        text = content.get("timeline")
        if not isinstance(text, str):
            raise place.error(
                "the run record has no timeline; it is of an older afstream, or damaged"
            )
        return Imported(Timeline.parse(text, source=f"{file.path}, its timeline"))
