"""Reads and checks values of the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from afstream.errors import ConfigError
from afstream.memory_plan.units import read_bytes
from afstream.timeline import Moment, Timeline
from afstream.timeline.directives import read_duration
from afstream.timeline.imports import (
    IMPORTS,
    ImportOptions,
    PromptFile,
    TimelineImport,
    find_import,
)
from afstream.timeline.lines import Place, shown
from afstream_cli.streams import tell

FRAME = re.compile(r"[0-9]{1,9}")
SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")


def read_pixels(size: str | None) -> tuple[int, int] | None:
    """`832x480` as width and height; None stays None."""
    if size is None:
        return None
    match = SIZE.fullmatch(size)
    if match is None:
        raise ConfigError(
            f"--size is {shown(size)}; write width x height in pixels, such as 832x480"
        )
    return int(match[1]), int(match[2])


def read_memory(amount: str | None) -> int | None:
    """`12GiB` in bytes; None stays None."""
    return None if amount is None else read_bytes(amount)


def read_moment(duration: str | None) -> Moment | None:
    """`1:00` or `12.5s` as a moment; None stays None."""
    return None if duration is None else read_duration(duration, Place("--duration"))


def read_time(text: str, option: str) -> Moment:
    """The time that an option gives; errors name the option."""
    moment = Moment.parse(text) or Moment.parse(f"[{text}]")
    if moment is None or moment.relative:
        raise ConfigError(f"{option} is {shown(text)}; write a time such as 0:20, 12.5s or 13c")
    return moment


def read_timeline(
    path: Path,
    options: ImportOptions,
    *,
    seed: int | None,
    duration: Moment | None,
    warn: Callable[[str], None] = tell,
) -> Timeline:
    """The timeline of a file in any known format.

    Args:
        path: the file.
        options: settings that the file may lack.
        seed: used instead of the file's.
        duration: used instead of the file's; cues beyond it are left out.
        warn: called with a message about whatever of the file is not played.
    """
    file = PromptFile(path)
    kind = find_import(file)
    refuse_unused(kind, options, path)
    imported = kind.read(file, options)
    timeline = imported.timeline
    for note in imported.notes:
        warn(f"afstream: {note}")
    if duration is not None:
        count = len(timeline.cues)
        timeline = timeline.cut(duration, options.clock)
        if left_out := count - len(timeline.cues):
            warn(
                f"afstream: {left_out} of {count} cues lie beyond the {duration} of --duration and"
                " are left out"
            )
    return replace(timeline, seed=timeline.seed if seed is None else seed)


def refuse_unused(kind: TimelineImport, options: ImportOptions, path: Path) -> None:
    """Refuse options that have no meaning for the format of a file."""
    given = {"switch_frames": options.switch_frames, "line": options.line}
    for name, value in given.items():
        if value and name not in kind.options:
            suffixes = [s for other in IMPORTS if name in other.options for s in other.suffixes]
            raise ConfigError(
                f"--switch-frames and --line are for {', '.join(suffixes)} files; {path} is read as"
                f" {kind.name}, which contains its times; leave them out"
            )


def read_frames(text: str | None) -> tuple[int, ...]:
    """`40,80` as numbers; None gives none."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(FRAME.fullmatch(word) for word in words):
        raise ConfigError(
            f"--switch-frames is {shown(text)}; write latent frames with commas between, such as"
            " 40,80"
        )
    return tuple(map(int, words))
