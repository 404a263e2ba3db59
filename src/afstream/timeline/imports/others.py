"""Files of other tools that cannot be read yet: told apart, so that none is taken for prompts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from afstream.timeline.imports.base import Imported, ImportOptions, PromptFile
from afstream.timeline.lines import Place
from afstream.timeline.lookalikes import EXAMPLE


@dataclass
class OtherTool:
    """A format that is refused with the advice to write a timeline.

    Attributes:
        name: the format in messages, with its article.
        endings: suffixes that it has, in lower case.
        begins: how its text begins, whatever the suffix.
    """

    name: str
    endings: tuple[str, ...]
    begins: re.Pattern[str]
    # Whatever reads such a format for good claims its suffix and comes before.
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] = ("switch_frames", "line")

    def recognises(self, file: PromptFile) -> bool:
        """Whether the suffix or the beginning tells this format."""
        if file.path.suffix.lower() in self.endings:
            return True
        return self.begins.match(file.text) is not None

    def read(self, file: PromptFile, options: ImportOptions) -> Imported:
        """Refuse the file."""
        jsonl = ', or {"prompts": ["...", "..."]} on one line of a .jsonl file'
        raise Place(str(file.path), 1, 1).error(
            f"this is {self.name}, which is no timeline; write one cue a line into a text file,"
            f" such as '{EXAMPLE}'{jsonl if '.json' in self.endings else ''}"
        )


SUBTITLE = r"\s*(?:\d+\s+)?\d+:\d\d(?::\d\d)?[.,]\d+\s+-->"
NEVER = r"(?!)"
OTHER_TOOLS = (
    OtherTool("JSON", (".json",), re.compile(r'\s*(?:\{\s*"|\{\s*$|\[\s*["{\[])')),
    OtherTool("a WebVTT file of subtitles", (".vtt",), re.compile(r"\s*WEBVTT\b")),
    OtherTool("an SRT file of subtitles", (".srt",), re.compile(SUBTITLE)),
    OtherTool("an ASS file of subtitles", (".ass", ".ssa"), re.compile(r"\s*\[Script Info\]")),
    OtherTool("a table", (".csv", ".tsv"), re.compile(NEVER)),
    OtherTool("YAML", (".yaml", ".yml"), re.compile(r"\s*(?:%YAML|---\s*$)", re.MULTILINE)),
    OtherTool("TOML", (".toml",), re.compile(NEVER)),
    OtherTool("XML", (".xml", ".fcpxml", ".ttml"), re.compile(r"\s*<\?xml")),
)
