"""Any text parses or gives its error, and what is printed parses back."""

import json
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.timeline.clocks import CLOCK

from afstream.errors import TimelineError
from afstream.text import find_control
from afstream.timeline import Cue, LiveReader, Moment, Plan, Timeline, Unit
from afstream.timeline.cue import Transition
from afstream.timeline.imports import ImportOptions
from afstream.timeline.imports.jsonl import parse as parse_jsonl
from afstream.timeline.lines import decode

CHUNK_S = 0.75
# A chunk, and what cuts may have moved: each scene's first chunk is 3 frames short.
GAP_S = 6

TIMES = ("", "0:00", "0:10", "1:02:03.5", "[12.5s]", "[+8s]", "[160f]", "[+3c]", "[x]", "16:9")
WORDS = ("switch", "cut", "blend=1.5s", "blend=", "seed=7", 'note="a b"', 'note="', "fade=1", "|")
DIRECTIVES = ("@seed 7", "@duration 1:00", "@let fox = a fox", "@suffix x", "@live", "@let", "@a b")
TEXTS = (
    "{fox}",
    "{",
    "}}",
    "{{",
    "#",
    '"',
    "\\",
    "=",
    "[",
    "now",
    "3 dogs",
    "\ufeff",
    "\x85",
    "é",
    "🦊",
)
# what a prompt or a note may hold
PLAIN = st.text(max_size=8).filter(lambda text: find_control(text) is None)
ENDS = ("\n", "\n", "\n", "\r\n", "\n  ", "\n\t", "\n#", "\u2028", "")

prompts = (
    st.lists(st.sampled_from(TEXTS + TIMES[1:] + WORDS) | PLAIN, min_size=1, max_size=4)
    .map(" ".join)
    .filter(lambda text: bool(text.replace("\ufeff", " ").strip()))
)
cue_lines = st.tuples(
    st.sampled_from(TIMES),
    st.lists(st.sampled_from(WORDS), max_size=2).map(" ".join),
    st.sampled_from(("a fox", "an {{owl}}", "a {fox}")) | prompts,
).map(" ".join)
lines = st.one_of(cue_lines, cue_lines, st.sampled_from(DIRECTIVES), st.text(max_size=8))
joined = st.lists(st.tuples(lines, st.sampled_from(ENDS)).map("".join), max_size=5).map("".join)
texts = joined | joined.map(lambda text: "@let fox = a fox\n0:00 a fox\n" + text) | st.text()
seeds = st.none() | st.integers(0, 2**63 - 1)


@st.composite
def cues(draw: st.DrawFn, since_s: float, at_s: float) -> Cue:
    """A cue at about `at_s`, in any unit, after one at about `since_s`."""
    relative = at_s > 0 and draw(st.booleans())
    seconds = at_s - since_s if relative else at_s
    unit, per_second = draw(
        st.sampled_from(
            [
                (Unit.SECONDS, 1.0),
                (Unit.VIDEO_FRAMES, 16.0),
                (Unit.LATENT_FRAMES, 4.0),
                (Unit.CHUNKS, 4 / 3),
            ]
        )
    )
    value = seconds * per_second
    transition: Transition = draw(st.sampled_from(("switch", "cut")))
    blend_s = draw(st.floats(0, 2)) if transition == "switch" and at_s else 0.0
    return Cue(
        start=Moment(value if unit is Unit.SECONDS else round(value), unit, relative=relative),
        prompt=draw(prompts),
        transition=transition,
        blend_s=blend_s,
        seed=draw(seeds),
        note=draw(PLAIN),
    )


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Timelines that can be played, with cues far enough apart in every unit."""
    gaps = draw(st.lists(st.floats(GAP_S, 100), max_size=4))
    made = [draw(cues(0.0, 0.0))]
    at_s = 0.0
    for gap in gaps:
        made.append(draw(cues(at_s, at_s + gap)))
        at_s += gap
    duration = draw(st.none() | st.floats(GAP_S, 3600).map(lambda rest: Moment(at_s + rest)))
    return Timeline(cues=tuple(made), seed=draw(seeds), duration=duration, live=draw(st.booleans()))


def scene_lengths(plan: Plan) -> list[int]:
    """Chunks of each scene, counted apart from the plan's own arithmetic."""
    lengths = [0]
    for index, planned in enumerate(plan.cues):
        if planned.cue.transition == "cut" and index:
            lengths.append(0)
        lengths[-1] += planned.num_chunks
    return lengths


def parse(text: str) -> Timeline | TimelineError:
    """The timeline of a text, or its error; no other error may come."""
    try:
        return Timeline.parse(text)
    except TimelineError as error:
        return error


@given(texts)
@settings(max_examples=200)
def test_any_text_parses_or_gives_its_error(text: str):
    result = parse(text)
    if isinstance(result, Timeline):
        assert Timeline.parse(str(result)) == result
    else:
        assert min(result.line, result.column) >= 1
        assert str(result).startswith(f"timeline.txt:{result.line}:{result.column}: ")


@given(st.binary() | texts.map(str.encode).flatmap(lambda data: st.just(data + b"\xff")))
def test_any_bytes_decode_or_give_their_error(data: bytes):
    with suppress(TimelineError):
        decode(data, "timeline.txt")


@given(timelines())
def test_a_printed_timeline_parses_back(timeline: Timeline):
    printed = str(timeline)
    assert Timeline.parse(printed) == timeline
    assert str(Timeline.parse(printed)) == printed


@given(timelines())
def test_cues_take_effect_at_the_next_chunk(timeline: Timeline):
    plan = timeline.plan(CLOCK)
    end = 0
    for planned in plan.cues:
        assert planned.chunk == end
        assert planned.num_chunks >= 1
        assert 0 <= planned.slip_s < CHUNK_S
        end += planned.num_chunks
    assert plan.num_chunks == end
    assert plan.num_video_frames == sum(
        12 if index else 9 for length in scene_lengths(plan) for index in range(length)
    )
    if timeline.duration is not None:
        assert 0 <= plan.duration_s - timeline.duration.value < CHUNK_S


@given(timelines())
def test_what_was_applied_replays_on_the_same_chunks(timeline: Timeline):
    plan = timeline.plan(CLOCK)
    replay = Timeline.from_applied(
        [(planned.chunk, planned.cue) for planned in plan.cues], num_chunks=plan.num_chunks
    )
    assert Timeline.parse(str(replay)) == replay
    again = replay.plan(CLOCK)
    assert [p.chunk for p in again.cues] == [p.chunk for p in plan.cues]
    assert [p.video_frame for p in again.cues] == [p.video_frame for p in plan.cues]
    assert again.num_video_frames == plan.num_video_frames


@given(st.lists(lines, max_size=4), st.floats(0, 1e6))
def test_any_live_line_is_a_cue_or_gives_its_error(typed: list[str], now_s: float):
    reader = LiveReader(CLOCK)
    for text in typed:
        with suppress(TimelineError):
            cue = reader.read(text, now_s)
            assert cue is None or not cue.start.relative


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(("prompts", "prompt", "seed")), children, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(json_values.map(json.dumps) | st.text(max_size=20), max_size=3).map("\n".join))
def test_any_jsonl_parses_or_gives_its_error(text: str):
    options = ImportOptions(clock=CLOCK, switch_frames=(40, 80))
    with suppress(TimelineError):
        timeline = parse_jsonl(text, "p.jsonl", options).timeline
        assert Timeline.parse(str(timeline)) == timeline
