"""Prompt files of LongLive, MemFlow and Anchor Forcing: one JSON object a line.

Each line holds the prompts of one video, `{"prompts": ["...", "..."]}`. The latent frames at
which prompts change are not in the file; they are given once for all lines (40, 80, ...).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import cast

from afstream.errors import TimelineError
from afstream.geometry import CHUNK_FRAMES
from afstream.timeline.cue import MAX_SEED, Cue
from afstream.timeline.lines import BYTE_ORDER_MARK, LINE_END
from afstream.timeline.moment import Moment, Unit
from afstream.timeline.place import Place, shown
from afstream.timeline.timeline import Timeline, read_text

# What these projects' own settings use between two prompts: 40 latent frames, about 10 s.
SWITCH_EVERY = 40
PROMPT_KEYS = ("prompts", "prompts_list", "prompt")


def read_jsonl(
    path: str | Path, *, switch_frames: Sequence[int] = (), num_latents: int | None = None
) -> list[Timeline]:
    """Read a prompt file; see `parse_jsonl`."""
    return parse_jsonl(
        read_text(path), source=str(path), switch_frames=switch_frames, num_latents=num_latents
    )


def parse_jsonl(
    text: str,
    *,
    source: str = "prompts.jsonl",
    switch_frames: Sequence[int] = (),
    num_latents: int | None = None,
) -> list[Timeline]:
    """One timeline per line; lines may have differing numbers of prompts.

    Args:
        text: JSON objects, one a line, with `prompts` and perhaps a `seed`.
        source: the file name that errors begin with.
        switch_frames: latent frames at which prompts change; a line with k prompts uses the
            first k - 1. Without any, prompts get equal shares of `num_latents`, or 40 each.
        num_latents: latent frames of every video. Without it a line's last prompt lasts to the
            next switch frame, or as long as the prompt before it.

    Raises:
        TimelineError: with line and column of the fault.
    """
    check_switch_frames(switch_frames)
    timelines = [
        read_line(line, Place(source, number, 1), switch_frames, num_latents)
        for number, line in enumerate(LINE_END.split(text.removeprefix(BYTE_ORDER_MARK)), 1)
        if line.strip()
    ]
    if not timelines:
        raise Place(source, 1, 1).error(
            'found no prompts; write one object a line, {"prompts": ["...", "..."]}'
        )
    return timelines


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


def read_line(
    line: str, place: Place, switch_frames: Sequence[int], num_latents: int | None
) -> Timeline:
    """The timeline of one line."""
    record = read_record(line, place)
    prompts = read_prompts(record, place)
    starts, stop = schedule(len(prompts), switch_frames, num_latents, place)
    return Timeline(
        cues=tuple(
            Cue(start=Moment(start, Unit.LATENT_FRAMES), prompt=prompt, place=place)
            for start, prompt in zip(starts, prompts, strict=True)
        ),
        seed=read_seed(record, place),
        duration=Moment(stop, Unit.LATENT_FRAMES),
    )


def read_record(line: str, place: Place) -> dict[str, object]:
    """The JSON object of one line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise place._replace(column=error.colno).error(
            f'not JSON ({error.msg}); write one object a line, {{"prompts": ["...", "..."]}}'
        ) from error
    except (ValueError, RecursionError) as error:
        raise place.error("JSON with too long a number or too deep a nesting; simplify") from error
    if not isinstance(record, dict):
        raise place.error(
            f'found {shown(line.strip())}; write one object a line, {{"prompts": ["...", "..."]}}'
        )
    return cast("dict[str, object]", record)


def read_prompts(record: dict[str, object], place: Place) -> list[str]:
    """The prompts of one line, whatever their key."""
    keys = [key for key in PROMPT_KEYS if key in record]
    if len(keys) != 1:
        raise place.error(
            f"found the keys {shown(', '.join(record))}; exactly one of {', '.join(PROMPT_KEYS)}"
            " is needed"
        )
    value = record[keys[0]]
    prompts = cast("list[object]", value) if isinstance(value, list) else [value]
    texts = [prompt for prompt in prompts if isinstance(prompt, str) and prompt.strip()]
    if not texts or len(texts) < len(prompts):
        raise place.error(
            f"{keys[0]!r} is {shown(json.dumps(value))}; write one text or a list of them, none"
            " of them empty"
        )
    return texts


def read_seed(record: dict[str, object], place: Place) -> int | None:
    """The seed of one line, if it has one."""
    seed = record.get("seed")
    if seed is None:
        return None
    # JSON's true is an int to Python.
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED:
        return seed
    raise place.error(f"seed is {shown(json.dumps(seed))}; write a whole number from 0 up")


def schedule(
    count: int, switch_frames: Sequence[int], num_latents: int | None, place: Place
) -> tuple[list[int], int]:
    """The latent frames at which `count` prompts start, and the one at which the video ends."""
    if not switch_frames:
        stop = SWITCH_EVERY * count if num_latents is None else num_latents
        return [stop * index // count for index in range(count)], stop
    if count > len(switch_frames) + 1:
        raise place.error(
            f"found {count} prompts, but {len(switch_frames)} switch frames; {count - 1} are"
            " needed; give more of them"
        )
    bounds = [0, *switch_frames]
    if num_latents is not None:
        stop = num_latents
    elif count < len(bounds):
        stop = bounds[count]
    else:
        stop = 2 * bounds[count - 1] - bounds[count - 2]
    return bounds[:count], stop


def check_switch_frames(frames: Sequence[int]) -> None:
    """Refuse switch frames of which two fall on one chunk."""
    chunks = [ceil(frame / CHUNK_FRAMES) for frame in frames]
    if any(later <= earlier for earlier, later in pairwise([0, *chunks])):
        raise TimelineError(
            f"switch frames are {', '.join(map(str, frames))}; each must be at least a chunk"
            f" ({CHUNK_FRAMES} latent frames) after the one before, the first above 0"
        )
