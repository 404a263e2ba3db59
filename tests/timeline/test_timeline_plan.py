"""When cues take effect: at the first chunk that starts at or after their time."""

import pytest
from tests.timeline.clocks import CLOCK

from afstream.geometry import ChunkClock
from afstream.timeline import Cue, Moment, Plan, Timeline, Unit


def plan(text: str, when: ChunkClock = CLOCK) -> Plan:
    """The plan of a timeline's text."""
    return Timeline.parse(text).plan(when)


def test_the_table_of_a_dry_run():
    table = [
        (p.requested_s, p.chunk, p.num_chunks, p.video_frame, p.effective_s, p.slip_s, p.scene)
        for p in plan("@duration 1:00\n0:00 a\n0:10 b\n0:20 c\n0:35 cut d\n[+10s] e").cues
    ]
    assert table == [
        (0.0, 0, 14, 0, 0.0, 0.0, 0),
        (10.0, 14, 13, 165, 10.3125, 0.3125, 0),
        (20.0, 27, 20, 321, 20.0625, 0.0625, 0),
        (35.0, 47, 14, 561, 35.0625, 0.0625, 1),
        # The first chunk after the cut gives 9 frames: 561 + 9 + 13 * 12.
        (45.0, 61, 20, 726, 45.375, 0.375, 1),
    ]


@pytest.mark.parametrize(
    ("start", "chunk", "requested_s"),
    [
        # The first chunk ends after 9 frames, the second after 21.
        ("[0.5625s]", 1, 0.5625),
        ("[0.562501s]", 2, 0.562501),
        ("[1.3125s]", 2, 1.3125),
        ("[9f]", 1, 0.5625),
        ("[10f]", 2, 0.625),
        ("[1l]", 1, 0.0625),
        ("[3l]", 1, 0.5625),
        ("[4l]", 2, 0.8125),
        ("[40l]", 14, 9.8125),
        ("[42l]", 14, 10.3125),
        ("[43l]", 15, 10.5625),
        ("[13c]", 13, 9.5625),
        ("[+3c]", 3, 2.0625),
        ("[999999999s]", 1333333333, 999999999.0),
    ],
)
def test_requests_snap_to_the_next_chunk(start: str, chunk: int, requested_s: float):
    planned = plan(f"0:00 a\n{start} b").cues[1]
    assert (planned.chunk, planned.requested_s) == (chunk, requested_s)


def test_decimal_sums_are_exact():
    assert plan("0:00 a\n[1.1s] b\n[+2.2s] c").cues[2].requested_s == 3.3


def test_relative_times_count_from_the_request_not_from_the_effect():
    cues = plan("0:00 a\n0:10 b\n[+10s] c\n[+160f] d").cues
    assert [cue.requested_s for cue in cues] == [0.0, 10.0, 20.0, 30.0]
    assert [cue.chunk for cue in plan("0:00 a\n[40l] b\n[+40l] c").cues] == [0, 14, 27]


def test_relative_latents_and_chunks_after_seconds_count_from_the_chunk():
    cues = plan("0:00 a\n0:10 b\n[+3c] c\n0:20 d\n[+7l] e").cues
    assert [cue.chunk for cue in cues] == [0, 14, 17, 27, 30]


def test_a_cut_starts_a_scene_whose_first_chunk_is_short():
    cues = plan("0:00 a\n[4c] cut b\n[5c] c\n[6c] cut d\n[7c] e").cues
    assert [cue.video_frame for cue in cues] == [0, 45, 54, 66, 75]
    assert [cue.scene for cue in cues] == [0, 1, 1, 2, 2]


def test_a_cut_at_the_very_start_changes_nothing():
    assert plan("0:00 cut a").cues[0].scene == 0


def test_latents_and_chunks_count_through_cuts():
    cues = plan("0:00 a\n[4c] cut b\n[15l] c\n[7c] d").cues
    assert [cue.chunk for cue in cues] == [0, 4, 5, 7]


@pytest.mark.parametrize(
    ("text", "num_chunks", "num_video_frames"),
    [
        # 10 s after the last cue took effect, in whole chunks.
        ("0:00 a", 14, 165),
        ("0:00 a\n0:10 b", 28, 333),
        ("0:00 a\n0:10 blend=30s b", 54, 645),
        ("0:00 a\n0:10 cut b", 28, 330),
        ("@duration 9f\n0:00 a", 1, 9),
        ("@duration 10f\n0:00 a", 2, 21),
        ("@duration 0:01\n0:00 a", 2, 21),
        ("@duration 240l\n0:00 a", 80, 957),
        ("@duration 241l\n0:00 a", 81, 969),
        ("@duration 80c\n0:00 a", 80, 957),
        ("a\nb\nc", 21, 249),
    ],
)
def test_how_long_a_stream_is(text: str, num_chunks: int, num_video_frames: int):
    planned = plan(text)
    assert (planned.num_chunks, planned.num_video_frames) == (num_chunks, num_video_frames)
    assert planned.duration_s == num_video_frames / 16
    assert sum(cue.num_chunks for cue in planned.cues) == num_chunks


@pytest.mark.parametrize(
    ("blend", "chunks"),
    [("0s", 0), ("0.01s", 1), ("0.75s", 1), ("1s", 2), ("1.5s", 2), ("2s", 3), ("2.25s", 3)],
)
def test_blends_take_whole_chunks(blend: str, chunks: int):
    assert plan(f"0:00 a\n0:10 blend={blend} b").cues[1].blend_chunks == chunks


def test_a_blend_may_fill_its_segment():
    assert plan("0:00 a\n[4c] blend=1.5s b\n[6c] c").cues[1].num_chunks == 2


def test_a_live_timeline_replays_on_the_same_chunks():
    fox = Cue(start=Moment(0), prompt="a fox")
    owl = Cue(start=Moment(3.2), prompt="an owl", blend_s=3.0)
    cat = Cue(start=Moment(4), prompt="a cat", transition="cut", seed=5)
    applied = [(0, owl), (0, fox), (5, owl), (6, cat), (9, owl), (11, fox)]
    timeline = Timeline.from_applied(applied, num_chunks=10, seed=3)
    assert [str(cue.start) for cue in timeline.cues] == ["[0c]", "[5c]", "[6c]", "[9c]"]
    assert [cue.prompt for cue in timeline.cues] == ["a fox", "an owl", "a cat", "an owl"]
    assert (timeline.seed, timeline.duration) == (3, Moment(10, Unit.CHUNKS))
    assert Timeline.parse(str(timeline)) == timeline
    planned = timeline.plan(CLOCK)
    assert [cue.chunk for cue in planned.cues] == [0, 5, 6, 9]
    assert planned.num_chunks == 10
    # The cut broke the blend off, which only a live timeline allows.
    assert planned.cues[1].blend_chunks == 4
    with pytest.raises(ValueError, match="shorten the blend"):
        plan(str(timeline).replace("@live\n", ""))
