"""Prompt files of LongLive, MemFlow and Anchor Forcing: one JSON object a line.

Each line holds the prompts of one video, `{"prompts": ["...", "..."]}`. The latent frames at
which prompts change are not in the file; they are given once for all lines (40, 80, ...).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import cast

from afstream.bounded import parse_json
from afstream.errors import TimelineError
from afstream.geometry import ChunkClock
from afstream.timeline.cue import MAX_CUES, MAX_SEED, Cue
from afstream.timeline.imports.base import Imported, ImportOptions, PromptFile
from afstream.timeline.lines import BYTE_ORDER_MARK, LINE_END, Place, shown
from afstream.timeline.moment import Moment, Unit
from afstream.timeline.timeline import Timeline

# These projects use 40 latent frames between two prompts, about 10 s.
SWITCH_EVERY = 40
PROMPT_KEYS = ("prompts", "prompts_list", "prompt")
OBJECT = re.compile(r'\s*\{ *".*\}\s*$', re.MULTILINE)
MOST_NAMED = 8
EXAMPLE = '{"prompts": ["...", "..."]}'


class JsonlImport:
    """One timeline per line; lines may have differing numbers of prompts.

    A line with k prompts uses the first k - 1 switch frames. Without any, prompts get equal
    shares of `num_latents`, or 40 latent frames each. Without `num_latents` a line's last prompt
    lasts to the next switch frame, or as long as the prompt before it.
    """

    name: str = "a file of JSON lines"
    suffixes: tuple[str, ...] = (".jsonl",)
    options: tuple[str, ...] = ("switch_frames", "num_latents", "line")

    def recognises(self, file: PromptFile) -> bool:
        """Whether its first line is a JSON object; no timeline begins so."""
        return OBJECT.match(file.text) is not None

    def read(self, file: PromptFile, options: ImportOptions) -> Imported:
        """The timeline of the chosen line, or of the first that is not blank."""
        return parse(file.text, str(file.path), options)


def parse(text: str, source: str, options: ImportOptions) -> Imported:
    """The timeline of one line of a text, whatever the others hold; errors begin with `source`."""
    check_switch_frames(options.switch_frames, options.clock)
    lines = dict(enumerate(LINE_END.split(text.removeprefix(BYTE_ORDER_MARK)), 1))
    numbers = [number for number, line in lines.items() if line.strip()]
    if not numbers:
        raise Place(source, 1, 1).error(f"found no prompts; write one object a line, {EXAMPLE}")
    number = numbers[0] if options.line is None else options.line
    if number not in numbers:
        raise TimelineError(
            f"no prompts on line {number}; lines {numbers[0]} to {numbers[-1]} hold them; choose"
            " one",
            source=source,
        )
    place = Place(source, number, 1)
    record = read_record(lines[number], place)
    notes: list[str] = []
    if options.line is None and len(numbers) > 1:
        notes.append(
            f"{source} holds the prompts of {len(numbers)} videos; line {number} is played, --line"
            " chooses another"
        )
    if unknown := [key for key in record if key not in (*PROMPT_KEYS, "seed")]:
        notes.append(
            f"{source}:{number}: of such lines only prompts and seed are read; left out:"
            f" {', '.join(map(shown, unknown[:MOST_NAMED]))}"
        )
    return Imported(read_timeline(record, place, options), tuple(notes))


def read_timeline(record: dict[str, object], place: Place, options: ImportOptions) -> Timeline:
    """The timeline of the object on one line."""
    prompts = read_prompts(record, place)
    if len(prompts) > MAX_CUES:
        raise place.error(f"more than {MAX_CUES:,} prompts; split the file")
    starts, stop = schedule(len(prompts), options.switch_frames, options.num_latents, place)
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
        record = parse_json(line, most_values=2 * MAX_CUES)
    except json.JSONDecodeError as error:
        raise place._replace(column=error.colno).error(
            f"not JSON ({error.msg}); write one object a line, {EXAMPLE}"
        ) from error
    except ValueError as error:
        raise place.error(f"{error}; write one object a line, {EXAMPLE}") from error
    if not isinstance(record, dict):
        raise place.error(f"found {shown(line.strip())}; write one object a line, {EXAMPLE}")
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


def check_switch_frames(frames: Sequence[int], clock: ChunkClock) -> None:
    """Refuse switch frames of which two fall on one chunk."""
    chunks = [ceil(frame / clock.chunk_frames) for frame in frames]
    if any(later <= earlier for earlier, later in pairwise([0, *chunks])):
        raise TimelineError(
            f"switch frames are {', '.join(map(str, frames))}; each must be at least a chunk"
            f" ({clock.chunk_frames} latent frames) after the one before, the first above 0"
        )
