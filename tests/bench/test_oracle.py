"""The oracle on real clips, and the report on players that show the right and a wrong world."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.timeline.clocks import CLOCK

from afstream.evaluate import RecordBook, Sizes, make_cases, measure, read, summarise
from afstream.evaluate.oracle import READABLE, attributes
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
        video = video_of(scene, timeline.plan(CLOCK).num_video_frames)
        yield Pictures(((video + 1) * 127.5).round().clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_the_report_tells_a_right_world_from_a_wrong_one(wrong, tmp_path):
    sizes = Sizes(steady=3, switch=0, long=0, steady_s=10.0)
    book = RecordBook(tmp_path)
    measure(make_cases(sizes), lambda _: Painter(wrong=wrong), book, model="truth", memory="none")
    (whole, *_) = summarise(book, memory="none").steady
    assert [whole.shares[name].right for name in READABLE if name != "colour"] == [3, 3, 3]
    assert whole.shares["colour"].right == (0 if wrong else 3)
