"""The pocket world: clips are deterministic, continuous, and say what they show."""

from __future__ import annotations

import numpy as np
import pytest

from afstream.families.pocket.captions import ATTRIBUTES, MAX_WORDS, Mention, caption, parse
from afstream.families.pocket.clips import follow_up, random_clip, random_scene
from afstream.families.pocket.motion import (
    ANGLE,
    IN_PLACE,
    PERIOD,
    SCALE,
    Home,
    X,
    Y,
    path,
    poses,
    unwind,
)
from afstream.families.pocket.phrases import SILENT_WORDS, VOCABULARY, words
from afstream.families.pocket.scene import (
    BACKGROUNDS,
    MOTIONS,
    SHAPES,
    Clip,
    Scene,
    Segment,
    Subject,
    chunk_start,
)
from afstream.families.pocket.world import render

KNOWN_WORDS = {word for group in VOCABULARY.values() for word in group}


def clip_of(*scenes: Scene, seed: int = 0, chunks: int = 2) -> Clip:
    """Scenes that follow each other every `chunks` chunks."""
    segments = tuple(
        Segment(start=chunk_start(index * chunks), scene=scene, caption="")
        for index, scene in enumerate(scenes)
    )
    return Clip(segments=segments, seed=seed)


def scene_of(motion: str = "rests", **changes: object) -> Scene:
    """A red ball at sea, unless told otherwise."""
    values: dict[str, object] = {"subject": Subject("ball", "red"), "background": "sea"} | changes
    return Scene(motion=motion, **values)  # type: ignore[arg-type]


def test_chunks_start_where_the_codec_puts_them():
    assert [chunk_start(index) for index in range(4)] == [0, 9, 21, 33]


@pytest.mark.parametrize("size", [48, 64])
def test_video_is_in_range_and_repeats_exactly(size: int):
    clip = random_clip(np.random.default_rng(3), num_switches=2)
    video = render(clip, 81, size=size)
    assert video.shape == (81, 3, size, size)
    assert video.dtype == np.float32
    assert -1 <= video.min() <= video.max() <= 1
    np.testing.assert_array_equal(video, render(clip, 81, size=size))


def test_a_later_window_equals_the_same_frames_of_the_whole():
    for seed in range(12):
        clip = random_clip(np.random.default_rng(seed), num_switches=3)
        whole = render(clip, 81)
        for start, frames in ((0, 1), (7, 17), (22, 5), (60, 21)):
            window = render(clip, frames, start=start)
            np.testing.assert_allclose(window, whole[start : start + frames], atol=2e-5)


def test_the_past_does_not_depend_on_what_follows():
    before, after = scene_of("right"), scene_of("spins", background="night")
    switched = render(clip_of(before, after), 40)
    plain = render(clip_of(before), 40)
    np.testing.assert_allclose(switched[:21], plain[:21], atol=2e-5)
    assert np.abs(switched[21] - plain[21]).max() > 0.01


@pytest.mark.parametrize("first", MOTIONS)
@pytest.mark.parametrize("second", MOTIONS)
def test_poses_do_not_jump_at_a_switch(first: str, second: str):
    for seed in range(3):
        found = poses(clip_of(scene_of(first), scene_of(second), seed=seed, chunks=3), 81)
        steps = np.diff(found, axis=0)
        steps[:, ANGLE] = unwind(steps[:, ANGLE])
        steps = np.abs(steps)
        # the fastest: a drift springs back by 3 px a frame, a gap adds a sixth of itself
        assert steps[:, [X, Y]].max() < 7
        assert steps[:, ANGLE].max() < 0.6
        assert steps[:, SCALE].max() < 0.1


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_are_periodic(motion: str):
    times = np.arange(5, dtype=np.float32)
    now, later = (path(motion, t, Home(1, 2)) for t in (times, times + PERIOD[motion]))
    later[:, ANGLE] -= 2 * np.pi * (motion == "spins")
    np.testing.assert_allclose(now, later, atol=1e-4)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", X, -1), ("right", X, 1), ("up", Y, -1), ("down", Y, 1)]
)
def test_the_median_velocity_gives_a_drift_away(motion: str, axis: int, sign: int):
    found = poses(clip_of(scene_of("circles"), scene_of(motion), chunks=3), 129)[33:]
    assert np.median(np.diff(found[:, axis])) * sign == pytest.approx(1, abs=0.05)
    assert np.abs(np.median(np.diff(found[:, X + Y - axis]))) < 0.05


@pytest.mark.parametrize("motion", sorted(IN_PLACE))
def test_motions_in_place_stay_where_the_subject_is(motion: str):
    found = poses(clip_of(scene_of("right"), scene_of(motion)), 81)
    np.testing.assert_allclose(found[21:, [X, Y]], np.broadcast_to(found[20, [X, Y]], (60, 2)))


def test_a_body_is_upright_again_after_spinning():
    found = poses(clip_of(scene_of("spins"), scene_of("rests")), 81)
    assert abs(found[80, ANGLE] % (2 * np.pi)) < 0.01 or abs(found[80, ANGLE]) < 0.01


def test_a_companion_slides_in_and_then_sits_still():
    alone, joined = scene_of(), scene_of(companion=Subject("star", "white"))
    video = render(clip_of(alone, joined), 81)
    corner = video[:, :, 44:, 44:]
    np.testing.assert_array_equal(corner[20], corner[0])
    assert np.abs(corner[26] - corner[20]).max() > 0.5
    np.testing.assert_allclose(corner[33], corner[80], atol=1e-6)


def test_scenes_and_clips_refuse_what_does_not_exist():
    with pytest.raises(ValueError, match="'hexagon'; choose one of ball"):
        Subject("hexagon", "red")
    with pytest.raises(ValueError, match="'desert'; choose one of night"):
        scene_of(background="desert")
    with pytest.raises(ValueError, match="rise from 0"):
        Clip(segments=(Segment(start=9, scene=scene_of(), caption=""),))
    with pytest.raises(ValueError, match="says nothing"):
        caption(scene_of(), np.random.default_rng(0), omit=ATTRIBUTES)


def test_words_of_different_groups_differ():
    every = [word for group in VOCABULARY.values() for word in group]
    assert len(every) == len(set(every))
    assert not KNOWN_WORDS & set(SILENT_WORDS)


def test_captions_are_short_closed_and_read_back():
    seen: set[str] = set()
    partial = 0
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        before = random_scene(rng)
        first = caption(before, rng)
        assert parse(first).over(random_scene(rng, companion_share=0)) == before
        after, text = follow_up(before, rng)
        said = parse(text)
        assert said.over(before) == after, text
        partial += None in (said.shape, said.colour, said.motion, said.background)
        for sentence in (first, text):
            assert len(words(sentence)) <= MAX_WORDS
            seen.update(words(sentence))
    assert seen == KNOWN_WORDS
    assert 0.4 < partial / 1500 < 0.6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Now it stops.", Mention(motion="rests")),
        ("It turns left.", Mention(motion="left")),
        ("The star turns blue.", Mention(shape="star", colour="blue")),
        ("Night falls.", Mention(background="night")),
        ("It still spins", Mention(motion="spins")),
        ("it stands still, by the SEA!", Mention(motion="rests", background="sea")),
        ("A red circle circles.", Mention(shape="ball", colour="red", motion="circles")),
        ("A small yellow heart joins it.", Mention(companion=Subject("heart", "yellow"))),
        ("The red ball becomes a violet star.", Mention(shape="star", colour="purple")),
        (
            "A tiny red ball joins the blue box",
            Mention(shape="square", colour="blue", companion=Subject("ball", "red")),
        ),
        ("Lorem ipsum dolor", Mention()),
    ],
)
def test_parse_reads_what_people_write(text: str, said: Mention):
    assert parse(text) == said


def test_every_shape_and_background_looks_different():
    shapes = [render(clip_of(scene_of(subject=Subject(s, "red"))), 1) for s in SHAPES]
    places = [render(clip_of(scene_of(background=b)), 1) for b in BACKGROUNDS]
    for pictures, apart in ((shapes, 0.004), (places, 0.05)):
        for index, one in enumerate(pictures):
            for other in pictures[:index]:
                assert np.square(one - other).mean() > apart
