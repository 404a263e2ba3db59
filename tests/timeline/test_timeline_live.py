"""Cues typed while the stream runs."""

import pytest
from tests.timeline.clocks import CLOCK

from afstream.errors import TimelineError
from afstream.timeline import Cue, LiveReader, Moment, Unit


def read(text: str, now_s: float = 12.0) -> Cue:
    """The cue of one line typed at `now_s`."""
    cue = LiveReader(CLOCK).read(text, now_s)
    assert cue is not None
    return cue


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("A fox.", Moment(12)),
        ("now A fox.", Moment(12)),
        ("now  | A fox.", Moment(12)),
        ("0:12 A fox.", Moment(12)),
        ("0:30 A fox.", Moment(30)),
        ("[+8s] A fox.", Moment(20)),
        ("[+16f] A fox.", Moment(13)),
        ("[+2c] A fox.", Moment(13.5)),
        ("[+2l] A fox.", Moment(12.5)),
        ("[200f] A fox.", Moment(200, Unit.VIDEO_FRAMES)),
        ("[13c] A fox.", Moment(13, Unit.CHUNKS)),
        ("  A fox.\n", Moment(12)),
    ],
)
def test_times(text: str, start: Moment):
    assert read(text) == Cue(start=start, prompt="A fox.")


def test_words_do_not_need_a_time():
    assert read("cut seed=3 A fox.").transition == "cut"
    assert read("blend=2s A fox.").blend_s == 2.0
    assert read("| cut paper").prompt == "cut paper"
    assert read("nowhere land").prompt == "nowhere land"


def test_directives_hold_for_the_lines_that_follow():
    reader = LiveReader(CLOCK)
    for text in ("", "# hi", "@let fox = a fox", "@suffix on film", "@seed 3", "@duration 1:00"):
        assert reader.read(text, 0.0) is None
    cue = reader.read("{fox} runs", 0.0)
    assert cue is not None
    assert (cue.prompt, cue.line) == ("a fox runs on film", 7)
    assert (reader.directives.seed, reader.directives.duration) == (3, Moment(60))


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("0:05 A fox.", 1, "0:05 is past, the stream is at 0:12"),
        ("[16f] A fox.", 1, "past"),
        ("now", 4, "no prompt"),
        ("now fade=1s A fox.", 5, "unknown word"),
        ("A {fox}.", 3, "unknown name"),
        ("16:9 picture", 1, "not a time"),
        ("@let fox", 6, "write a name"),
    ],
)
def test_a_fault_does_not_end_the_input(text: str, column: int, words: str):
    reader = LiveReader(CLOCK)
    reader.read("# first line", 12.0)
    with pytest.raises(TimelineError, match=words) as caught:
        reader.read(text, 12.0)
    assert (caught.value.source, caught.value.line, caught.value.column) == ("stdin", 2, column)
    reader.read("@let fox = a fox", 12.0)
    cue = reader.read("{fox}", 12.0)
    assert cue is not None
    assert (cue.prompt, cue.line) == ("a fox", 4)
