"""The words of the pocket world: synonyms, phrases and the closed vocabulary."""

from __future__ import annotations

import re

SHAPE_WORDS = {
    "ball": ("ball", "circle", "disc"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge"),
    "star": ("star",),
    "heart": ("heart",),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "yellow": ("yellow", "golden", "gold"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "white": ("white",),
}
# each verb in two forms: "it spins", "it is spinning"
DRIFT_VERBS = (
    ("drifts", "drifting"),
    ("glides", "gliding"),
    ("floats", "floating"),
    ("moves", "moving"),
    ("slides", "sliding"),
)
TURN_VERB = ("turns", "turning")
DIRECTION_PHRASES = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
MOTION_VERBS = {
    "up": (("rises", "rising"),),
    "down": (("sinks", "sinking"),),
    "circles": (
        ("circles", "circling"),
        ("loops", "looping"),
        ("moves in circles", "moving in circles"),
        ("goes round in circles", "going round in circles"),
    ),
    "bounces": (("bounces", "bouncing"), ("hops", "hopping"), ("jumps", "jumping")),
    "spins": (
        ("spins", "spinning"),
        ("rotates", "rotating"),
        ("twirls", "twirling"),
        ("spins on the spot", "spinning on the spot"),
    ),
    "pulses": (
        ("pulses", "pulsing"),
        ("throbs", "throbbing"),
        ("grows and shrinks", "growing and shrinking"),
    ),
    "rests": (
        ("rests", "resting"),
        ("stands still", "standing still"),
        ("stays still", "staying still"),
        ("waits", "waiting"),
    ),
}
STOP_VERB = ("stops", "stopping")
BACKGROUND_PHRASES = {
    "night": ("at night", "under the night sky", "under the moon", "in the moonlight"),
    "meadow": ("over the meadow", "in the meadow", "over the hills", "in a field"),
    "sunset": ("at sunset", "at dusk", "in the evening", "in the evening sun"),
    "snow": ("in the snow", "over the snow", "in winter"),
    "sea": ("over the sea", "by the sea", "over the water", "over the ocean"),
}
# a new background as a sentence of its own, beside "now it is ..."
BACKGROUND_EVENTS = {
    "night": ("night falls", "night comes"),
    "meadow": ("now comes a meadow",),
    "sunset": ("the sun sets", "evening comes"),
    "snow": ("snow falls", "winter comes"),
    "sea": ("now comes the sea",),
}
SMALL_WORDS = ("small", "little", "tiny")
JOIN_VERBS = ("joins it", "joins in", "appears", "comes in")
BESIDE_PHRASES = ("with", "beside", "next to")
BECOME_VERBS = ("turns into", "becomes", "changes into")

_FUNCTION_WORDS = """
    a an the it is same this one now then and with in into on over at under by to next beside
    turns turning becomes changes joins appears comes small little tiny
"""
_SILENT_WORDS = """
    its while again also as before being but for from here just keeps of off so slowly quickly
    gently softly that there very we see where which who your our my i you please suddenly
    across above through along scene video shape picture towards toward begins starts back
    continues
"""
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


def words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return _WORD.findall(text.lower())


FUNCTION_WORDS = tuple(words(_FUNCTION_WORDS))
SILENT_WORDS = tuple(words(_SILENT_WORDS))
"""Understood as saying nothing: no caption holds them, but people write them."""


def _content(*groups: tuple[str, ...]) -> tuple[str, ...]:
    """Words of all the phrases in order of appearance, once each, function words left out."""
    found = dict.fromkeys(word for group in groups for phrase in group for word in words(phrase))
    return tuple(word for word in found if word not in FUNCTION_WORDS)


FUNCTION_GROUP = "others"
VOCABULARY: dict[str, tuple[str, ...]] = {
    "shapes": _content(*SHAPE_WORDS.values()),
    "colours": _content(*COLOUR_WORDS.values()),
    "motions": _content(
        *DRIFT_VERBS,
        *DIRECTION_PHRASES.values(),
        *(verb for verbs in MOTION_VERBS.values() for verb in verbs),
        STOP_VERB,
    ),
    "backgrounds": _content(*BACKGROUND_PHRASES.values(), *BACKGROUND_EVENTS.values()),
    FUNCTION_GROUP: FUNCTION_WORDS,
}
"""Every word that captions can hold, by what it speaks of; `SILENT_WORDS` come beside it."""
