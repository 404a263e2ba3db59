"""What the user gave on the command line, read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from afstream.errors import ConfigError
from afstream.memory_plan.units import read_bytes
from afstream.spec import ModelSpec, text_place
from afstream.timeline import Moment, Timeline, pick_line, read_jsonl
from afstream.timeline.directives import read_duration
from afstream.timeline.place import Place

JSONL = ".jsonl"
SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")


def read_pixels(size: str | None) -> tuple[int, int] | None:
    """`832x480` as width and height; None stays None."""
    if size is None:
        return None
    match = SIZE.fullmatch(size)
    if match is None:
        raise ConfigError(f"--size is {size!r}; write width x height in pixels, such as 832x480")
    return int(match[1]), int(match[2])


def read_memory(amount: str | None) -> int | None:
    """`12GiB` in bytes; None stays None."""
    return None if amount is None else read_bytes(amount)


def read_spec(
    model: str,
    *,
    student: str | None,
    loras: Sequence[str] | None,
    vae: str | None,
    text: str | None,
    offload: int,
    device: str | None,
    dtype: str | None,
) -> ModelSpec:
    """The options about the model, together."""
    return ModelSpec(
        name=model,
        student=student,
        loras=tuple(loras or ()),
        vae=vae,
        text=text_place(text),
        offload=offload,
        device=device,
        dtype=dtype,
    )


def read_moment(duration: str | None) -> Moment | None:
    """`1:00` or `12.5s` as a moment; None stays None."""
    return None if duration is None else read_duration(duration, Place("--duration"))


def read_timeline(
    path: Path,
    *,
    seed: int | None,
    duration: Moment | None,
    switch_frames: str | None,
    line: int | None,
) -> Timeline:
    """The timeline of a file; what was given on the command line wins over what it says."""
    if path.suffix.lower() == JSONL:
        timelines = read_jsonl(path, switch_frames=read_frames(switch_frames))
        timeline = timelines[0] if line is None else pick_line(timelines, line)
    elif switch_frames or line:
        raise ConfigError(
            f"--switch-frames and --line are for {JSONL} files; {path} is read as a timeline,"
            " which says its times itself; leave them out"
        )
    else:
        timeline = Timeline.read(path)
    return replace(
        timeline,
        seed=timeline.seed if seed is None else seed,
        duration=duration or timeline.duration,
    )


def read_frames(text: str | None) -> tuple[int, ...]:
    """`40,80` as numbers; None is none."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(
            f"--switch-frames is {text!r}; write latent frames with commas between, such as 40,80"
        )
    return tuple(map(int, words))
