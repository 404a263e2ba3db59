"""Nothing that a file says may steer a terminal."""

import unicodedata

import pytest

from afstream.text import has_controls, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\x00b\x7f\x9bc", r"a\x00b\x7f\x9bc"),
        ("one\r\ntwo\tthree", r"one\x0d\x0atwo\x09three"),
        ("a\u2028b\u202ec\u2066d", r"a\u2028b\u202ec\u2066d"),
        ("half \udcff", r"half \udcff"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert has_controls(text)
    assert printable(text) == shown


# accents, a pair of emoji with a joiner, a Persian word with a non-joiner, a Hebrew mark
LIVING = [
    "plain",
    "é 🦊 雪",
    "👩\u200d🚀",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0645",
    "\u200f\u05e9",
]


@pytest.mark.parametrize("text", LIVING)
def test_text_that_people_write_stays(text):
    assert not has_controls(text)
    assert printable(text) == text


def test_every_character_of_a_control_category_is_found():
    every = map(chr, range(0x110000))
    controls = [one for one in every if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
    assert all(map(has_controls, controls))
    assert all(map(str.isascii, printable("".join(controls))))


def test_values_are_shown_by_their_text():
    assert printable(7) == "7"
