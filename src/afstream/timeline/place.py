"""Where in a file something stands, so that every error can say it."""

from __future__ import annotations

from typing import NamedTuple

from afstream.errors import TimelineError

SHOWN_CHARS = 40


class Place(NamedTuple):
    """A character in a file; lines and columns count from 1, 0 means that there is none."""

    source: str = ""
    line: int = 0
    column: int = 0

    def error(self, message: str) -> TimelineError:
        """The error `source:line:column: message`."""
        return TimelineError(message, source=self.source, line=self.line, column=self.column)


NOWHERE = Place()


def shown(text: str) -> str:
    """A piece of a file, quoted and cut to what fits into a message."""
    return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "...")
