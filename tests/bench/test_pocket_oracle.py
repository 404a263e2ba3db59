"""The oracle on real clips and near its thresholds; the report on a right and a wrong world."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from afstream.families.pocket.backdrops import backdrop
from afstream.families.pocket.captions import parse
from afstream.families.pocket.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Clip,
    Scene,
    Segment,
    Subject,
)
from afstream.families.pocket.world import render
from pocket_oracle import (
    RecordBook,
    Sizes,
    cases,
    make_cases,
    measure,
    oracle_accuracy,
    read,
    summarise,
)
from pocket_oracle.motion import Track, classify_motion, speed_px
from pocket_oracle.oracle import READABLE, attributes

FRAMES = 96


def scene_of(number: int) -> Scene:
    """Scenes that take turns through every value of every attribute."""
    return Scene(
        subject=Subject(SHAPES[number % len(SHAPES)], COLOURS[number % len(COLOURS)]),
        motion=MOTIONS[number % len(MOTIONS)],
        background=BACKGROUNDS[(2 * number + 1) % len(BACKGROUNDS)],
    )


def video_of(scene: Scene, frames: int = FRAMES):
    clip = Clip(segments=(Segment(start=0, scene=scene, caption=""),), seed=3)
    return render(clip, frames).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("number", range(len(MOTIONS)), ids=lambda n: MOTIONS[n])
def test_every_value_is_read_from_real_clips(number):
    scene = scene_of(number)
    shown = read(video_of(scene)).shown
    assert shown == {name: attributes(scene)[name] for name in READABLE}


def test_an_empty_picture_shows_no_subject():
    empty = np.repeat(backdrop("meadow", 64).transpose(1, 2, 0)[None], FRAMES, axis=0)
    shown = read(empty).shown
    assert shown["background"] == "meadow"
    assert shown["shape"] is shown["colour"] is None


@dataclass
class Pictures:
    frames: np.ndarray


class Painter:
    """Plays one-prompt timelines from the true world, or from one with another colour."""

    def __init__(self, *, wrong: bool) -> None:
        self.wrong = wrong

    def play(self, timeline):
        mention = parse(timeline.cues[0].prompt)
        scene = mention.over(scene_of(0))
        if self.wrong:
            colours = [colour for colour in COLOURS if colour != scene.subject.colour]
            scene = replace(scene, subject=Subject(scene.subject.shape, colours[0]))
        video = video_of(scene, timeline.plan(cases.CLOCK).num_video_frames)
        yield Pictures(((video + 1) * 127.5).round().clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_the_report_tells_a_right_world_from_a_wrong_one(wrong, tmp_path):
    sizes = Sizes(steady=3, switch=0, long=0, steady_s=10.0)
    book = RecordBook(tmp_path)
    measure(make_cases(sizes), lambda _: Painter(wrong=wrong), book, model="truth", memory="none")
    (whole, *_) = summarise(book, memory="none").steady
    assert [whole.shares[name].right for name in READABLE if name != "colour"] == [3, 3, 3]
    assert whole.shares["colour"].right == (0 if wrong else 3)


def test_blur_and_noise_do_not_mislead_it():
    def degrade(video, rng):
        soft = (video + np.roll(video, 1, axis=2) + np.roll(video, 1, axis=3)) / 3
        return soft + rng.normal(scale=0.05, size=video.shape).astype(np.float32)

    assert min(oracle_accuracy(clips=6, degrade=degrade).values()) == 1
    # with nothing left to see it does not guess
    assert max(oracle_accuracy(clips=2, degrade=lambda video, _: 0 * video).values()) == 0


def track_of(**lines):
    """Two periods of a subject that stands still but for what is given."""
    still = {name: np.zeros(96, np.float32) for name in ("x", "y", "angle")}
    still["scale"] = np.ones(96, np.float32)
    return Track(**{**still, **lines}, symmetry=2 * np.pi)


def to_and_fro(forward_share, length_px=24.0):
    """Positions that go ahead for a share of each 48 frames and come back in the rest."""
    phase = np.arange(96) % 48 / 48
    ahead = phase / forward_share
    back = (1 - phase) / (1 - forward_share)
    return (length_px * np.minimum(ahead, back)).astype(np.float32)


@pytest.mark.parametrize(
    ("share", "across", "upward"),
    [
        (0.67, "right", "down"),
        # just a drift, and just none
        (0.61, "right", "down"),
        (0.55, None, "bounces"),
        (0.45, None, "bounces"),
        (0.39, "left", "up"),
    ],
)
def test_a_drift_spends_more_time_one_way(share, across, upward):
    assert classify_motion(track_of(x=to_and_fro(share))) == across
    assert classify_motion(track_of(y=to_and_fro(share))) == upward


def test_motions_in_place_are_told_by_scale_and_angle():
    times = np.arange(96, dtype=np.float32)
    wave = np.sin(times * 2 * np.pi / 48)
    assert classify_motion(track_of()) == "rests"
    assert classify_motion(track_of(scale=1 + 0.08 * wave)) == "rests"
    assert classify_motion(track_of(scale=1 + 0.12 * wave)) == "pulses"
    assert classify_motion(track_of(angle=0.04 * times)) == "rests"
    assert classify_motion(track_of(angle=0.06 * times)) == "spins"
    assert classify_motion(track_of(x=2.8 * wave)) == "rests"
    assert classify_motion(track_of(y=3.2 * wave)) == "bounces"


def test_a_circle_is_round_and_goes_round():
    turn = np.arange(96) * 2 * np.pi / 48
    x, y = (10 * np.cos(turn)).astype(np.float32), (10 * np.sin(turn)).astype(np.float32)
    assert classify_motion(track_of(x=x, y=y)) == "circles"
    assert classify_motion(track_of(x=x, y=0.7 * y)) == "circles"
    assert classify_motion(track_of(x=x, y=0.5 * y)) is None
    # as wide as high, but there and back, nearly on one line
    thin = (10 * np.cos(turn - 0.2)).astype(np.float32)
    assert classify_motion(track_of(x=x, y=thin)) is None
    assert speed_px(track_of(x=x, y=y)) == pytest.approx(10 * 2 * np.pi / 48, rel=0.02)


def test_a_subject_that_is_hardly_seen_has_no_motion():
    hidden = to_and_fro(0.67)
    hidden[:40] = np.nan
    track = track_of(x=hidden)
    assert classify_motion(track) is None
    assert speed_px(track) is None
    assert classify_motion(track_of().part(0, 20)) is None
