"""Streams with other chunks, strides and frame rates: everything snaps to their chunks."""

from itertools import accumulate, pairwise
from math import ceil

import pytest
from tests.timeline.clocks import clock

from afstream.errors import TimelineError
from afstream.geometry import ChunkClock
from afstream.timeline import Cue, LiveReader, Moment, Timeline
from afstream.timeline.imports import ImportOptions, jsonl
from afstream.timeline.plan import blend_length, length_of

CLOCKS = [
    pytest.param(chunk, stride, fps, id=f"{chunk}x{stride}@{fps}")
    for chunk in (1, 3, 8)
    for stride in (4, 8)
    for fps in (16, 24)
]
each_clock = pytest.mark.parametrize(("chunk", "stride", "fps"), CLOCKS)


def frames_of_scene(count: int, chunk: int, stride: int) -> list[int]:
    """Video frames of a scene's chunks, by hand: its first latent frame decodes to one."""
    latents = [1] + [stride] * (chunk * count - 1)
    return [sum(latents[index * chunk : (index + 1) * chunk]) for index in range(count)]


def chunk_starts(scenes: list[int], chunk: int, stride: int) -> list[int]:
    """The first video frame of every chunk, and the end, of scenes of so many chunks."""
    frames = [n for count in scenes for n in frames_of_scene(count, chunk, stride)]
    return list(accumulate(frames, initial=0))


@each_clock
def test_a_cue_takes_effect_at_the_first_chunk_from_its_time_on(chunk: int, stride: int, fps: int):
    when = clock(chunk=chunk, stride=stride, fps=fps)
    starts = chunk_starts([200], chunk, stride)
    for tenths in range(20, 200, 7):
        timeline = Timeline.parse(f"0:00 a\n[{tenths / 10}s] b\n@duration 80s")
        planned = timeline.plan(when).cues[1]
        expected = next(i for i, frame in enumerate(starts) if frame >= tenths * fps / 10)
        assert planned.chunk == expected
        assert planned.effective_s == starts[expected] / fps
        assert 0 <= planned.slip_s < when.chunk_s
    for frame in (starts[3], starts[3] + 1):
        planned = Timeline.parse(f"0:00 a\n[{frame}f] b").plan(when).cues[1]
        assert planned.chunk == 3 + (frame > starts[3])


@each_clock
def test_a_cut_begins_a_scene_with_a_short_chunk(chunk: int, stride: int, fps: int):
    when = clock(chunk=chunk, stride=stride, fps=fps)
    plan = Timeline.parse("0:00 a\n[4c] cut b\n[6c] c\n[9c] cut d\n@duration 12c").plan(when)
    starts = chunk_starts([4, 5, 3], chunk, stride)
    assert [cue.video_frame for cue in plan.cues] == [starts[i] for i in (0, 4, 6, 9)]
    assert (plan.num_chunks, plan.num_video_frames) == (12, starts[12])
    assert plan.duration_s == starts[12] / fps
    sizes = [later - earlier for earlier, later in pairwise(starts)]
    assert sizes[0] == sizes[4] == sizes[9] == 1 + stride * (chunk - 1)
    assert {sizes[i] for i in (1, 2, 3, 5, 8, 11)} == {stride * chunk}


@each_clock
def test_how_long_a_stream_is(chunk: int, stride: int, fps: int):
    when = clock(chunk=chunk, stride=stride, fps=fps)
    starts = chunk_starts([200], chunk, stride)
    for text in ("@duration 7.3s\n0:00 a", "0:00 a"):
        seconds = 7.3 if "7.3" in text else 10
        end = next(frame for frame in starts if frame >= seconds * fps)
        assert Timeline.parse(text).plan(when).num_video_frames == end
    assert length_of(Moment(7.3), when) * fps == next(f for f in starts if f >= 7.3 * fps)
    assert Timeline.parse("@duration 40l\n0:00 a").plan(when).num_chunks == ceil(40 / chunk)


@each_clock
def test_blends_take_whole_chunks(chunk: int, stride: int, fps: int):
    when = clock(chunk=chunk, stride=stride, fps=fps)
    assert blend_length(0, when) == 0
    for chunks in range(1, 40):
        seconds = chunks * chunk * stride / fps
        assert blend_length(seconds, when) == chunks
        assert blend_length(seconds + 0.001, when) == chunks + 1
    timeline = Timeline.parse("0:00 a\n[30c] blend=1.1s b\n@duration 90c")
    assert timeline.plan(when).cues[1].blend_chunks == ceil(1.1 * fps / (chunk * stride))


def test_a_blend_that_fits_one_stream_may_be_too_long_for_another():
    timeline = Timeline.parse("0:00 a\n0:04 blend=2.2s b\n[+2.3s] c")
    assert timeline.plan(clock(chunk=1)).cues[1].blend_chunks == 9
    with pytest.raises(TimelineError, match=r"2.2 s takes 3 chunks, but its prompt lasts 2 \(2"):
        timeline.plan(clock(chunk=4))


def test_cues_closer_than_a_chunk_are_refused_where_chunks_are_long():
    timeline = Timeline.parse("0:00 a\n0:01 b\n0:02 c")
    assert [cue.chunk for cue in timeline.plan(clock(chunk=1)).cues] == [0, 5, 9]
    with pytest.raises(TimelineError, match=r":3:1: .*a prompt lasts at least one chunk"):
        timeline.plan(clock(chunk=8, stride=8))


@each_clock
def test_live_moments_count_from_the_next_chunk(chunk: int, stride: int, fps: int):
    reader = LiveReader(clock(chunk=chunk, stride=stride, fps=fps))

    def start(text: str) -> Moment:
        cue = reader.read(f"{text} a", 12.0)
        assert isinstance(cue, Cue)
        return cue.start

    assert start("[+3l]") == Moment(12 + 3 * stride / fps)
    assert start("[+2c]") == Moment(12 + 2 * chunk * stride / fps)
    assert start("[+48f]") == Moment(12 + 48 / fps)
    past = int(12 * fps) - 1
    with pytest.raises(TimelineError, match="is past"):
        reader.read(f"[{past}f] a", 12.0)


@pytest.mark.parametrize(("chunk", "frames"), [(1, (1, 2)), (3, (3, 4)), (8, (8, 9))])
def test_switch_frames_of_prompt_files_need_a_chunk_between(chunk: int, frames: tuple[int, ...]):
    def read(when: ChunkClock, frames: tuple[int, ...]) -> list[int]:
        options = ImportOptions(clock=when, switch_frames=frames, num_latents=400)
        timeline = jsonl.parse('{"prompts": ["a", "b", "c"]}', "p.jsonl", options).timeline
        return [cue.chunk for cue in timeline.plan(when).cues]

    when = clock(chunk=chunk)
    assert read(when, frames) == [0, 1, 2]
    shared = (chunk * 8 + 1, chunk * 9)
    if chunk > 1:
        with pytest.raises(TimelineError, match=rf"at least a chunk \({chunk} latent frames\)"):
            read(when, shared)
    assert read(when, (chunk * 8, chunk * 8 + 1)) == [0, 8, 9]
