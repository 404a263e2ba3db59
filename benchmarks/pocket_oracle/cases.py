"""Held-out test cases: a stream's prompts, what it should show, and which frames are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from afstream.families.pocket.captions import caption, parse
from afstream.families.pocket.clips import follow_up, random_scene
from afstream.families.pocket.facts import FORMAT, LENGTHS
from afstream.families.pocket.scene import Scene
from afstream.geometry import ChunkClock
from afstream.timeline import Cue, Moment, Timeline
from pocket_oracle.oracle import READABLE

# training draws from [1, i] and other small seeds
HELD_OUT_SEED = 777
KINDS = ("steady", "switch", "long")
SETTLE_S, SWITCH_SETTLE_S = 3.0, 2.0
PART_S, END_S = 5.0, 10.0
# the chunks behind a switch that are read one by one
KEPT_CHUNKS = 8
CLOCK = ChunkClock(format=FORMAT, chunk_frames=LENGTHS.chunk_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Number and length of the streams.

    Attributes:
        steady: streams with one prompt.
        switch: streams with one switch; every second one switches to an under-specified caption.
        long: streams with one prompt and a moving subject.
        steady_s: seconds of a steady stream.
        switch_at_s: second of the switch.
        switch_s: seconds of a stream with a switch.
        long_s: seconds of a long stream.
    """

    steady: int = 128
    switch: int = 128
    long: int = 20
    steady_s: float = 20.0
    switch_at_s: float = 6.0
    switch_s: float = 14.0
    long_s: float = 60.0


class FrameRange(NamedTuple):
    """Video frames from `start` up to `stop`, which is not part of it."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One stream to play and to read.

    Attributes:
        kind: one of `KINDS`.
        index: number within its kind.
        seed: of the stream's noise.
        timeline: its prompts.
        before: what it should show up to the switch; None without a switch.
        scene: what it should show at the end; attributes that a caption omits stay.
        told: the readable attributes that the last caption names.
        windows: the frames to read, by name.
    """

    kind: str
    index: int
    seed: int
    timeline: Timeline
    before: Scene | None = None
    scene: Scene
    told: frozenset[str]
    windows: dict[str, FrameRange]

    def expected(self, window: str) -> Scene:
        """What a window should show."""
        return self.before if window == "before" and self.before else self.scene


def make_cases(sizes: Sizes) -> Iterator[Case]:
    """All cases, the same ones every time; a smaller number of a kind gives its first ones."""
    yield from (_steady(index, sizes) for index in range(sizes.steady))
    yield from (_switch(index, sizes) for index in range(sizes.switch))
    yield from (_long(index, sizes) for index in range(sizes.long))


def _random(kind: str, index: int) -> np.random.Generator:
    return np.random.default_rng([HELD_OUT_SEED, KINDS.index(kind), index])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _frames(seconds: float) -> int:
    return round(seconds * FORMAT.fps)


def _one_prompt(prompt: str, duration_s: float) -> Timeline:
    cue = Cue(start=Moment(0), prompt=prompt)
    return Timeline(cues=(cue,), duration=Moment(duration_s))


def _steady(index: int, sizes: Sizes) -> Case:
    rng = _random("steady", index)
    scene = random_scene(rng)
    timeline = _one_prompt(caption(scene, rng), sizes.steady_s)
    end, part = _frames(sizes.steady_s), _frames(PART_S)
    windows = {"whole": FrameRange(_frames(SETTLE_S), end)}
    for start in range(0, end - part + 1, part):
        seconds = f"{start // FORMAT.fps}-{(start + part) // FORMAT.fps} s"
        windows[seconds] = FrameRange(start, start + part)
    return Case(
        kind="steady",
        index=index,
        seed=_seed(rng),
        timeline=timeline,
        scene=scene,
        told=frozenset(READABLE),
        windows=windows,
    )


def _switch(index: int, sizes: Sizes) -> Case:
    rng = _random("switch", index)
    before = random_scene(rng)
    first = Cue(start=Moment(0), prompt=caption(before, rng))
    scene, news = follow_up(before, rng, partial_share=index % 2)
    second = Cue(start=Moment(sizes.switch_at_s), prompt=news)
    timeline = Timeline(cues=(first, second), duration=Moment(sizes.switch_s))
    plan = timeline.plan(CLOCK)
    switch = plan.cues[1].video_frame
    chunk = LENGTHS.chunk_frames * FORMAT.temporal_stride
    starts = range(switch, switch + KEPT_CHUNKS * chunk, chunk)
    said = parse(news)
    return Case(
        kind="switch",
        index=index,
        seed=_seed(rng),
        timeline=timeline,
        before=before,
        scene=scene,
        told=frozenset(name for name in READABLE if getattr(said, name)),
        windows={
            "before": FrameRange(_frames(SETTLE_S), switch),
            "after": FrameRange(switch + _frames(SWITCH_SETTLE_S), plan.num_video_frames),
            **{
                f"chunk {number}": FrameRange(start, start + chunk)
                for number, start in enumerate(starts, start=1)
            },
        },
    )


def _long(index: int, sizes: Sizes) -> Case:
    rng = _random("long", index)
    scene = random_scene(rng)
    # a resting subject has no speed to compare
    while scene.motion == "rests":
        scene = random_scene(rng)
    end, part = _frames(sizes.long_s), _frames(END_S)
    return Case(
        kind="long",
        index=index,
        seed=_seed(rng),
        timeline=_one_prompt(caption(scene, rng), sizes.long_s),
        scene=scene,
        told=frozenset(READABLE),
        windows={"first": FrameRange(0, part), "last": FrameRange(end - part, end)},
    )
