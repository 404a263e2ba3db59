"""A prompt change is one object: the cue that was asked for, and what became of it."""

import itertools

import numpy as np
import pytest
from tests.engine.toy import toy_model
from tests.timeline.clocks import CLOCK, clock

from afstream.errors import PromptError, TimelineError
from afstream.stream import Stream
from afstream.timeline import Cue, Moment, Timeline, Unit

STAR, TURN, HEART = "A red star drifts left.", "It turns right.", "A blue heart spins at night."


@pytest.fixture(scope="module")
def model():
    return toy_model()


def make_stream(model):
    return Stream(model)


def take(stream, count):
    return list(itertools.islice(stream.chunks(), count))


def test_a_receipt_holds_the_cue_itself(model):
    cue = Cue(start=Moment(0), prompt=STAR, seed=5, note="first")
    stream = make_stream(model)
    receipt = stream.cue(cue)
    assert receipt.cue is cue
    assert (receipt.prompt, receipt.transition) == (STAR, "switch")
    assert (receipt.seed, receipt.note, receipt.blend_chunks) == (5, "first", 0)
    (chunk,) = take(stream, 1)
    assert chunk.receipts == (receipt,)
    assert stream.state.seed == 5


def test_a_receipt_of_a_timeline_holds_its_cue(model):
    timeline = Timeline.parse(f"@duration 8c\n0:00 {STAR}\n0:02 cut {HEART}\n[5c] blend=1s {TURN}")
    receipts = [r for c in make_stream(model).play(timeline) for r in c.receipts]
    assert [receipt.cue for receipt in receipts] == list(timeline.cues)
    assert all(r.cue is cue for r, cue in zip(receipts, timeline.cues, strict=True))
    # chunk 5 is the third of the second scene: 33 + 9 + 12 frames before it
    assert [receipt.requested_s for receipt in receipts] == [0.0, 2.0, 54 / 16]
    assert [receipt.chunk for receipt in receipts] == [0, 3, 5]
    assert [receipt.blend_chunks for receipt in receipts] == [0, 0, 2]


def test_words_and_a_cue_ask_for_the_same(model):
    words, whole = make_stream(model), make_stream(model)
    words.cue(STAR, seed=3)
    whole.cue(Cue(start=Moment(0), prompt=STAR, seed=3))
    made = [take(words, 2), take(whole, 2)]
    words.cue(HEART, blend_s=1.5, note="n")
    whole.cue(Cue(start=Moment(1), prompt=HEART, blend_s=1.5, note="n"))
    made = [[*a, *take(s, 3)] for a, s in zip(made, (words, whole), strict=True)]
    frames = [np.concatenate([chunk.frames for chunk in chunks]) for chunks in made]
    assert np.array_equal(frames[0], frames[1])


def test_when_a_live_cue_was_asked_for(model):
    stream = make_stream(model)
    assert stream.cue(STAR).requested_s == 0.0
    take(stream, 2)
    # two chunks are made: 9 + 12 frames
    assert stream.cue(TURN).requested_s == 21 / 16
    assert stream.cue(TURN).cue.start == Moment(21 / 16)
    # a time that is past stays what it is; latents and chunks are here when they are due
    assert stream.cue(Cue(start=Moment(1.25), prompt=TURN)).requested_s == 1.25
    assert stream.cue(Cue(start=Moment(16, Unit.VIDEO_FRAMES), prompt=TURN)).requested_s == 1.0
    assert stream.cue(Cue(start=Moment(2, Unit.CHUNKS), prompt=TURN)).requested_s == 21 / 16
    assert stream.cue(Cue(start=Moment(8, relative=True), prompt=TURN)).requested_s == 21 / 16


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt": " "}, "a cue has no prompt"),
        ({"prompt": STAR, "transition": "cut", "blend_s": 1.0}, "a cut cannot blend"),
        ({"prompt": STAR, "seed": -1}, "seed is -1"),
        ({"prompt": STAR, "blend_s": -1.0}, "a blend lasts -1.0 s"),
        ({"prompt": STAR, "transition": "fade"}, "write 'switch' or 'cut'"),
    ],
)
def test_an_impossible_cue_changes_nothing(model, settings, sentence):
    stream = make_stream(model)
    stream.cue(STAR)
    with pytest.raises(TimelineError, match=sentence):
        stream.cue(**settings)
    with pytest.raises(PromptError):
        stream.cue("A wombat.")
    (chunk,) = take(stream, 1)
    assert [receipt.prompt for receipt in chunk.receipts] == [STAR]


def test_a_receipt_in_plain_values(model):
    stream = make_stream(model)
    receipt = stream.cue(STAR, note="dawn")
    take(stream, 1)
    data = receipt.as_data()
    assert data.pop("switch_ms") == receipt.switch_ms
    assert data == {
        "prompt": STAR,
        "transition": "switch",
        "blend_chunks": 0,
        "seed": None,
        "note": "dawn",
        "chunk": 0,
        "superseded": False,
    }


def test_a_plan_for_another_clock_is_refused(model):
    timeline = Timeline.parse(f"0:00 {STAR}")
    stream = make_stream(model)
    assert stream.clock == CLOCK
    with pytest.raises(TimelineError, match=r"plan the timeline with stream\.clock"):
        next(stream.play(timeline.plan(clock(fps=24))))


def test_one_plan_can_be_played_twice(model):
    stream = make_stream(model)
    plan = Timeline.parse(f"@duration 3c\n0:00 {STAR}\n[2c] {TURN}").plan(stream.clock)
    runs = [[r for c in make_stream(model).play(plan) for r in c.receipts] for _ in range(2)]
    first, second = runs
    assert [receipt.chunk for receipt in first] == [receipt.chunk for receipt in second] == [0, 2]
    assert all(a is not b for a, b in zip(first, second, strict=True))


def test_a_switch_takes_at_least_as_long_as_its_chunk(model):
    stream = make_stream(model)
    receipt = stream.cue(STAR)
    (chunk,) = take(stream, 1)
    # asked for before the chunk was, in the same unit
    assert receipt.switch_ms is not None
    assert receipt.switch_ms >= chunk.timing.total_ms > 0


def test_a_prompt_that_is_not_understood_is_named_with_its_place(model):
    timeline = Timeline.parse(f"0:00 {STAR}\n0:05 A wombat.", source="story.txt")
    with pytest.raises(PromptError, match=r"^story\.txt:2:1: the pocket model does not know"):
        make_stream(model).play(timeline)


def test_a_plan_of_years_takes_no_memory(model):
    stream = make_stream(model)
    plan = Timeline.parse(f"@duration 999999999c\n0:00 {STAR}").plan(stream.clock)
    assert list(stream._pipeline.prompts.planned(plan)) == [0]
