"""The parts of a cue's line after its time: words such as `blend=1.5s`, and `{names}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TypedDict

from afstream.errors import TimelineError
from afstream.text import some_of
from afstream.timeline.cue import MAX_PROMPT_CHARS, MAX_SEED, Transition
from afstream.timeline.lines import LogicalLine, Place, shown

# `|` separates the words from a prompt that begins like one.
WORD = re.compile(
    r"""((?P<key>[A-Za-z_]+)=(?P<value>"(?:[^"\\]|\\.)*"|\S*)|(?P<bare>switch|cut)(?!\S)|\|)\s*"""
)
SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)s")
SEED = re.compile(r"[0-9]{1,19}")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")
KEYS = ("blend", "seed", "note")
# names that a suggestion is looked for among
MAX_COMPARED = 200
ALLOWED = 'switch, cut, blend=1.5s, seed=7 and note="..."'

NAME = re.compile(r"[^\W\d]\w*")
BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Words(TypedDict, total=False):
    """The fields of a cue that the words of its line set."""

    transition: Transition
    blend_s: float
    blend_place: Place
    seed: int
    note: str


def read_words(line: LogicalLine, start: int) -> tuple[Words, int]:
    """Read words from offset `start` on; also returns the offset at which the prompt begins."""
    text, end = line.text, start
    words = Words()
    seen: set[str] = set()
    while match := WORD.match(text, end):
        place, end = line.place(match.start()), match.end()
        if match[1] == "|":
            break
        name, value = match["key"] or "transition", match["value"]
        if match["key"] and name not in KEYS:
            raise place.error(
                f"unknown word {shown(match[1])}; allowed are {ALLOWED}{perhaps(name, KEYS)};"
                " write '|' before a prompt that begins like a word"
            )
        if name in seen:
            raise place.error(f"found {shown(match[1])}, but one {name} is allowed; remove it")
        if match[0] == match[1] and end < len(text):
            raise line.place(end).error(
                f"found {shown(text[end])} right after {shown(match[1])}; put a blank between"
            )
        seen.add(name)
        if name == "transition":
            words["transition"] = "cut" if match["bare"] == "cut" else "switch"
        elif name == "blend":
            words["blend_s"], words["blend_place"] = read_blend(value, place), place
        elif name == "seed":
            words["seed"] = read_seed(value, place)
        else:
            words["note"] = read_note(value, place)
    if "blend_place" in words and words.get("transition") == "cut":
        raise words["blend_place"].error(
            "found blend together with cut; a cut leaves nothing of the old scene to blend with;"
            " remove one of the two"
        )
    return words, end


def read_blend(text: str, place: Place) -> float:
    """The seconds of `blend=1.5s`."""
    if match := SECONDS.fullmatch(text):
        return float(match[1])
    raise place.error(f"blend is {shown(text)}; write seconds, as in blend=1.5s")


def read_seed(text: str, place: Place) -> int:
    """The number of `seed=7` or `@seed 7`."""
    if SEED.fullmatch(text) and int(text) <= MAX_SEED:
        return int(text)
    raise place.error(f"seed is {shown(text)}; write a whole number from 0 to {MAX_SEED}")


def read_note(text: str, place: Place) -> str:
    """The text of `note="..."`; a backslash stands before a quote or a backslash."""
    if match := QUOTED.fullmatch(text):
        return ESCAPED.sub(r"\1", match[1])
    if text and '"' not in text:
        return text
    raise place.error(f'note is {shown(text)}; put it in quotes, as in note="Dawn"')


def quote_note(note: str) -> str:
    """The note in quotes, as `read_note` reads it."""
    escaped = note.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def substitute(text: str, names: Mapping[str, str], place: Callable[[int], Place]) -> str:
    """Replace each `{name}` by its text, and a doubled brace by one brace.

    `place` tells where in the file a character of the text stands.
    """
    length = len(text)

    def replacement(match: re.Match[str]) -> str:
        nonlocal length
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] is None:
            raise place(match.start()).error(
                f"found a lone {match[0]!r}; braces stand round a name, {{fox}}; write"
                f" {match[0] * 2!r} for the brace itself"
            )
        name = match[1].strip()
        if name in names:
            # checked before the text is built: texts that contain names can double in length with
            # every line
            length += len(names[name]) - len(match[0])
            if length > MAX_PROMPT_CHARS:
                raise too_long(place(0))
            return names[name]
        known = f"the lines above give {some_of(names)}" if names else "no line above gives a name"
        raise place(match.start()).error(
            f"unknown name {shown(name)}; {known}{perhaps(name, names)}; name it with @let, or"
            " write '{{' for the brace itself"
        )

    result = BRACES.sub(replacement, text)
    if len(result) > MAX_PROMPT_CHARS:
        raise too_long(place(0))
    return result


def too_long(place: Place) -> TimelineError:
    """The error for a text that no cue could have."""
    return place.error(
        f"the text grows beyond {MAX_PROMPT_CHARS:,} characters, which is the most; shorten it, or"
        " the texts of its names"
    )


def escape_braces(text: str) -> str:
    """Double every brace, so that `substitute` gives the text back."""
    return text.replace("{", "{{").replace("}", "}}")


def perhaps(word: str, known: Iterable[str]) -> str:
    """The nearest known word as part of a sentence, empty when none is near."""
    near = get_close_matches(word.lower(), islice(known, MAX_COMPARED), n=1)
    return f"; perhaps {near[0]!r} is meant" if near else ""
