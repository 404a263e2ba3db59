"""Captions of scenes in plain English, and what a caption says read back.

A caption may leave attributes out: "Now it stops." Then what it leaves out stays as it
was. `caption` writes such sentences, `parse` reads them, also when a user wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from afstream.families.pocket.phrases import (
    BACKGROUND_EVENTS,
    BACKGROUND_PHRASES,
    BECOME_VERBS,
    BESIDE_PHRASES,
    COLOUR_WORDS,
    DIRECTION_PHRASES,
    DRIFT_VERBS,
    FUNCTION_WORDS,
    JOIN_VERBS,
    MOTION_VERBS,
    SHAPE_WORDS,
    SMALL_WORDS,
    STOP_VERB,
    TURN_VERB,
    words,
)
from afstream.families.pocket.scene import Scene, Subject

ATTRIBUTES = frozenset({"shape", "colour", "motion", "background", "companion"})
LOOKS = frozenset({"shape", "colour"})
MAX_WORDS = 22

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """What a caption says; None where it leaves something out."""

    shape: str | None = None
    colour: str | None = None
    motion: str | None = None
    background: str | None = None
    companion: Subject | None = None

    def over(self, scene: Scene) -> Scene:
        """The scene after this caption: what it leaves out stays as it was."""
        subject = Subject(self.shape or scene.subject.shape, self.colour or scene.subject.colour)
        return Scene(
            subject=subject,
            motion=self.motion or scene.motion,
            background=self.background or scene.background,
            companion=self.companion or scene.companion,
        )


def caption(
    scene: Scene,
    rng: np.random.Generator,
    *,
    omit: frozenset[str] = frozenset(),
    before: Scene | None = None,
) -> str:
    """One English sentence about a scene, its words chosen at random.

    `omit` names `ATTRIBUTES` to leave out; after the scene `before` it may say what changes.
    """
    told = ATTRIBUTES - omit - (frozenset() if scene.companion else {"companion"})
    if not told:
        raise ValueError(f"a caption that omits {sorted(omit)} says nothing; leave something in")
    writer = _Writer(scene, told, rng, before)
    sentence = writer.story() if "motion" in told or before is None else writer.news()
    return sentence[0].upper() + sentence[1:] + "."


class _Writer:
    """Writes one sentence: the words that fit a scene, chosen at random."""

    def __init__(
        self, scene: Scene, told: frozenset[str], rng: np.random.Generator, before: Scene | None
    ) -> None:
        self.scene, self.told, self.rng, self.before = scene, told, rng, before
        self.partial = not told >= ATTRIBUTES - {"companion"}
        # all is new where nothing came before
        self.new = ATTRIBUTES if before is None else scene.changes(before)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def story(self) -> str:
        """Somebody does something somewhere; or, with no motion told, just is there."""
        someone = self.someone()
        action = self.action() if "motion" in self.told else ""
        company = self.company()
        near = bool(company) and not company.startswith("and ") and self.chance(0.3)
        where = self.pick(BACKGROUND_PHRASES[self.scene.background])
        if "background" not in self.told:
            where = ""
        ahead = bool(where) and self.chance(0.3)
        parts = (
            where + "," if ahead else "",
            someone,
            action,
            company if near else "",
            "" if ahead else where,
            "" if near else company,
        )
        return self.opening() + " ".join(filter(None, parts))

    def news(self) -> str:
        """What changes, without a motion: 'it turns blue and night falls'."""
        parts: list[str] = []
        if self.told & LOOKS:
            parts.append(self.becoming())
        if "background" in self.told:
            parts.append(self.arrival(alone=not parts))
        if "companion" in self.told:
            parts.append(self.newcomer())
        sentence = " and ".join(parts)
        return sentence if sentence.startswith("now ") else self.opening() + sentence

    def opening(self) -> str:
        if self.before is None or not self.chance(0.3):
            return ""
        return self.pick(("now ", "now ", "then "))

    def shape(self) -> str:
        return self.pick(SHAPE_WORDS[self.scene.subject.shape])

    def colour(self) -> str:
        return self.pick(COLOUR_WORDS[self.scene.subject.colour])

    def someone(self) -> str:
        """The subject as far as it is told: 'a red ball', 'the same ball', 'it'."""
        named = self.told & LOOKS
        if not named:
            return "it"
        colour = f"{self.colour()} " if "colour" in named else ""
        if "shape" not in named:
            return f"the {colour}one"
        noun = colour + self.shape()
        if self.partial and self.before is not None and not named & self.new:
            return f"{self.pick(('the', 'the', 'the same', 'this'))} {noun}"
        return _a(noun) if self.chance(0.7) else f"the {noun}"

    def action(self) -> str:
        motion = self.scene.motion
        verbs = list(MOTION_VERBS.get(motion, ()))
        tail = ""
        if motion in DIRECTION_PHRASES and not (verbs and self.chance(0.2)):
            verbs = list(DRIFT_VERBS)
            tail = " " + self.pick(DIRECTION_PHRASES[motion])
            if self.before is not None and motion in {"left", "right"}:
                verbs += [TURN_VERB, TURN_VERB]
        if self.before is not None and motion == "rests":
            verbs += [STOP_VERB, STOP_VERB]
        present, participle = self.pick(verbs)
        return (f"is {participle}" if self.chance(0.25) else present) + tail

    def company(self) -> str:
        """The companion's part of a sentence, starting with 'and' where it is new."""
        if "companion" not in self.told:
            return ""
        if self.before is not None and self.before.companion is None:
            return "and " + self.newcomer()
        return f"{self.pick(BESIDE_PHRASES)} {self.small_one()}"

    def newcomer(self) -> str:
        return f"{self.small_one()} {self.pick(JOIN_VERBS)}"

    def small_one(self) -> str:
        assert self.scene.companion is not None  # noqa: S101 - told only where it exists
        colour = self.pick(COLOUR_WORDS[self.scene.companion.colour])
        shape = self.pick(SHAPE_WORDS[self.scene.companion.shape])
        return f"a {self.pick(SMALL_WORDS)} {colour} {shape}"

    def becoming(self) -> str:
        """The subject's new looks: 'it turns blue', 'the star becomes violet'."""
        told = self.told & LOOKS
        if "shape" not in told or (told == LOOKS and "shape" not in self.new):
            who = f"the {self.shape()}" if told == LOOKS else "it"
            return f"{who} {self.pick(('turns', 'turns', 'becomes'))} {self.colour()}"
        noun = f"{self.colour()} {self.shape()}" if told == LOOKS else self.shape()
        return f"it {self.pick(BECOME_VERBS)} {_a(noun)}"

    def arrival(self, *, alone: bool) -> str:
        """A new background as a clause of its own."""
        if alone and self.chance(0.5):
            return f"now it is {self.pick(BACKGROUND_PHRASES[self.scene.background])}"
        return self.pick(BACKGROUND_EVENTS[self.scene.background])


def scene_of(text: str) -> Scene:
    """The scene that a full caption tells, read back.

    Raises:
        ValueError: it leaves shape, colour, motion or background out.
    """
    said = parse(text)
    if said.shape and said.colour and said.motion and said.background:
        subject = Subject(said.shape, said.colour)
        return Scene(
            subject=subject,
            motion=said.motion,
            background=said.background,
            companion=said.companion,
        )
    raise ValueError(f"{text!r} leaves something out; a scene needs all but a companion")


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _meanings(phrases: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Each word of the phrases that is no function word, with the attribute it means."""
    return {
        word: value
        for value, choices in phrases.items()
        for phrase in choices
        for word in words(phrase)
        if word not in FUNCTION_WORDS
    }


_SHAPES = _meanings(SHAPE_WORDS)
_COLOURS = _meanings(COLOUR_WORDS)
# "still" speaks of rest only where no verb says otherwise: "it still spins"
_DIRECTIONS = {**_meanings(DIRECTION_PHRASES), "still": "rests"}
_BACKGROUNDS = {
    word: value
    for word, value in (_meanings(BACKGROUND_PHRASES) | _meanings(BACKGROUND_EVENTS)).items()
    # "sky", "falls" and "sets" say which only together with another word
    if word not in {"sky", "falls", "sets", "comes"}
}
_VERBS = {
    word: motion
    for motion, verbs in {**MOTION_VERBS, "rests": (*MOTION_VERBS["rests"], STOP_VERB)}.items()
    for forms in verbs
    for form in forms
    for word in words(form)
    # these come in phrases of several motions, whose other words decide
    if word not in {*FUNCTION_WORDS, "moves", "moving", "goes", "going", "round", "spot", "still"}
}


def parse(text: str) -> Mention:
    """What a caption says of the world; words it does not know say nothing.

    The last shape and colour named count, so "the red ball turns blue" is blue; of several
    motions the first counts, and a direction only where no other motion is named. What
    follows "small" is the companion.
    """
    found: dict[str, str] = {}
    small: dict[str, str] = {}
    into = found
    motion = direction = None
    for word in words(text):
        if word in SMALL_WORDS:
            into = small
        elif word in _COLOURS:
            into["colour"] = _COLOURS[word]
        elif word in _SHAPES:
            into["shape"] = _SHAPES[word]
            into = found
        elif word in _VERBS:
            motion = motion or _VERBS[word]
        elif word in _DIRECTIONS:
            direction = direction or _DIRECTIONS[word]
        elif word in _BACKGROUNDS:
            found.setdefault("background", _BACKGROUNDS[word])
    companion = (
        Subject(small["shape"], small["colour"]) if small.keys() == {"shape", "colour"} else None
    )
    return Mention(
        shape=found.get("shape"),
        colour=found.get("colour"),
        motion=motion or direction,
        background=found.get("background"),
        companion=companion,
    )
