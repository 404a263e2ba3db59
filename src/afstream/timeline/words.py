"""The words between a cue's time and its prompt: `cut`, `blend=1.5s`, `seed=7`, `note="..."`."""

from __future__ import annotations

import re
from typing import NamedTuple

from afstream.timeline.cue import MAX_SEED, Transition
from afstream.timeline.lines import LogicalLine
from afstream.timeline.names import perhaps
from afstream.timeline.place import NOWHERE, Place, shown

# A bar ends the words: everything after it is prompt.
WORD = re.compile(
    r"""((?P<key>[A-Za-z_]+)=(?P<value>"(?:[^"\\]|\\.)*"|\S*)|(?P<bare>switch|cut)(?!\S)|\|)\s*"""
)
SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)s")
SEED = re.compile(r"[0-9]{1,19}")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")
KEYS = ("blend", "seed", "note")
ALLOWED = 'switch, cut, blend=1.5s, seed=7 and note="..."'


class Word(NamedTuple):
    """One word's value as written, and where the word stands."""

    value: str
    place: Place


class Words(NamedTuple):
    """What the words of one line say, and the offset in it where the prompt begins."""

    transition: Transition
    blend_s: float
    seed: int | None
    note: str
    blend_place: Place
    end: int


def read_words(line: LogicalLine, start: int) -> Words:
    """Read the words from offset `start` of a line on, until a bar or anything else comes."""
    found, end = find_words(line, start)
    blend = found.get("blend", Word("0s", NOWHERE))
    seed = found.get("seed")
    transition = found.get("transition", Word("switch", NOWHERE)).value
    if "blend" in found and transition == "cut":
        raise blend.place.error(
            "found blend together with cut; a cut leaves nothing of the old scene to blend with;"
            " remove one of the two"
        )
    return Words(
        transition="cut" if transition == "cut" else "switch",
        blend_s=read_blend(blend),
        seed=read_seed(seed.value, seed.place) if seed else None,
        note=read_note(found.get("note", Word('""', NOWHERE))),
        blend_place=blend.place,
        end=end,
    )


def find_words(line: LogicalLine, start: int) -> tuple[dict[str, Word], int]:
    """The words by name, and the offset where the prompt begins."""
    text, end = line.text, start
    found: dict[str, Word] = {}
    while match := WORD.match(text, end):
        place, end = line.place(match.start()), match.end()
        if match[1] == "|":
            break
        name = match["key"] or "transition"
        if match["key"] and name not in KEYS:
            raise place.error(
                f"unknown word {shown(match[1])}; allowed are {ALLOWED}{perhaps(name, KEYS)};"
                " write '|' before a prompt that begins like a word"
            )
        if name in found:
            raise place.error(f"found {shown(match[1])}, but one {name} is allowed; remove it")
        if match[0] == match[1] and end < len(text):
            raise line.place(end).error(
                f"found {shown(text[end])} right after {shown(match[1])}; put a blank between"
            )
        found[name] = Word(match["bare"] or match["value"], place)
    return found, end


def read_blend(word: Word) -> float:
    """The seconds of `blend=1.5s`."""
    if match := SECONDS.fullmatch(word.value):
        return float(match[1])
    raise word.place.error(f"blend is {shown(word.value)}; write seconds, as in blend=1.5s")


def read_seed(text: str, place: Place) -> int:
    """The number of `seed=7` or `@seed 7`."""
    if SEED.fullmatch(text) and int(text) <= MAX_SEED:
        return int(text)
    raise place.error(f"seed is {shown(text)}; write a whole number from 0 to {MAX_SEED}")


def read_note(word: Word) -> str:
    """The text of `note="..."`, in which a backslash goes before a quote or a backslash."""
    if match := QUOTED.fullmatch(word.value):
        return ESCAPED.sub(r"\1", match[1])
    if word.value and '"' not in word.value:
        return word.value
    raise word.place.error(f'note is {shown(word.value)}; put it in quotes, as in note="Dawn"')


def quote_note(note: str) -> str:
    """The note in quotes, as `read_note` reads it."""
    escaped = note.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
