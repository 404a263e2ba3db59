"""The interface of timeline imports, and the import of afstream's own format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from afstream.geometry import ChunkClock
from afstream.timeline.lines import read_text
from afstream.timeline.timeline import Timeline


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts.

    Attributes:
        path: where it is.
    """

    path: Path

    @cached_property
    def text(self) -> str:
        """Its text, read once: it may be a pipe.

        Raises:
            TimelineError: the file cannot be read or is not UTF-8.
        """
        return read_text(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Settings that a file of prompts may lack.

    Attributes:
        clock: lengths of chunks and frames of the stream that will play it.
        switch_frames: latent frames at which prompts change.
        num_latents: latent frames of the whole video.
        line: the line whose prompts are wanted, counted from 1; None for the first.
    """

    clock: ChunkClock
    switch_frames: tuple[int, ...] = ()
    num_latents: int | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read from a file of prompts.

    Attributes:
        timeline: the timeline, or that of the line that was asked for.
        notes: what a user must know about it: whatever was left out.
    """

    timeline: Timeline
    notes: tuple[str, ...] = ()


class TimelineImport(Protocol):
    """One format of prompt files.

    Attributes:
        name: the format in messages, with its article.
        suffixes: suffixes that always mean this format, in lower case.
        options: the fields of `ImportOptions` that this format uses.
    """

    name: str
    suffixes: tuple[str, ...]
    options: tuple[str, ...]

    def recognises(self, file: PromptFile) -> bool:
        """Whether a file is of this format; asked when no format claims its suffix."""
        ...

    def read(self, file: PromptFile, options: ImportOptions) -> Imported:
        """The timeline of the file, or of the line that the options choose.

        Raises:
            TimelineError: with line and column of the fault.
        """
        ...


class TextImport:
    """Timelines in plain text, as docs/timeline.md describes them."""

    name: str = "a timeline"
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def recognises(self, file: PromptFile) -> bool:
        """Always true: the grammar reports files that are not timelines."""
        return True

    def read(self, file: PromptFile, options: ImportOptions) -> Imported:
        """The one timeline of the file."""
        return Imported(Timeline.parse(file.text, source=str(file.path)))
