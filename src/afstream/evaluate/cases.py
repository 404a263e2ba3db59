"""Held-out prompts: what each stream is told, what it should show, and when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from afstream.evaluate.oracle import READABLE
from afstream.families.pocket.captions import caption, parse
from afstream.families.pocket.clips import follow_up, random_scene
from afstream.families.pocket.scene import Scene
from afstream.geometry import (
    CHUNK_FRAMES,
    FPS,
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    ChunkClock,
    VideoFormat,
)
from afstream.timeline import Cue, Moment, Timeline

# training draws from [1, i] and other small seeds
HELD_OUT_SEED = 777
KINDS = ("steady", "switch", "long")
SETTLE_S, SWITCH_SETTLE_S = 3.0, 2.0
PART_S, END_S = 5.0, 10.0
CLOCK = ChunkClock(
    format=VideoFormat(fps=FPS, temporal_stride=TEMPORAL_STRIDE, spatial_stride=SPATIAL_STRIDE),
    chunk_frames=CHUNK_FRAMES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        steady: streams with one prompt.
        switch: streams with one switch; every other caption of it is under-specified.
        long: streams with one prompt and a subject that moves.
        steady_s: length of the first kind.
        switch_at_s: when the switch is asked for.
        switch_s: length of the second kind.
        long_s: length of the third kind.
    """

    steady: int = 128
    switch: int = 128
    long: int = 20
    steady_s: float = 20.0
    switch_at_s: float = 6.0
    switch_s: float = 14.0
    long_s: float = 60.0


class Window(NamedTuple):
    """A stretch of video frames to be read; `stop` is no longer in it."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One stream to be made and read.

    Attributes:
        kind: one of `KINDS`.
        index: which of its kind.
        seed: of the stream's noise.
        timeline: what it is told.
        before: what it should show up to the switch, if there is one.
        scene: what it should show at the end; what a caption leaves out stays as it was.
        told: the readable attributes that the last caption speaks of.
        windows: what is read, by name.
    """

    kind: str
    index: int
    seed: int
    timeline: Timeline
    before: Scene | None = None
    scene: Scene
    told: frozenset[str]
    windows: dict[str, Window]

    @property
    def partial(self) -> bool:
        """Whether the last caption leaves something out."""
        return len(self.told) < len(READABLE)

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the stream is told, in order."""
        return tuple(cue.prompt for cue in self.timeline.cues)

    def expected(self, window: str) -> Scene:
        """What a window should show."""
        return self.before if window == "before" and self.before else self.scene


def make_cases(sizes: Sizes) -> Iterator[Case]:
    """All cases, always the same; a smaller number of a kind gives its first ones."""
    for index in range(sizes.steady):
        yield _steady(index, sizes)
    for index in range(sizes.switch):
        yield _switch(index, sizes)
    for index in range(sizes.long):
        yield _long(index, sizes)


def _random(kind: str, index: int) -> np.random.Generator:
    return np.random.default_rng([HELD_OUT_SEED, KINDS.index(kind), index])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _frames(seconds: float) -> int:
    return round(seconds * FPS)


def _one_prompt(prompt: str, duration_s: float) -> Timeline:
    cue = Cue(start=Moment(0), prompt=prompt)
    return Timeline(cues=(cue,), duration=Moment(duration_s))


def _steady(index: int, sizes: Sizes) -> Case:
    rng = _random("steady", index)
    scene = random_scene(rng)
    timeline = _one_prompt(caption(scene, rng), sizes.steady_s)
    end, part = _frames(sizes.steady_s), _frames(PART_S)
    windows = {"whole": Window(_frames(SETTLE_S), end)}
    for start in range(0, end - part + 1, part):
        windows[f"{start // FPS}-{(start + part) // FPS} s"] = Window(start, start + part)
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
    said = parse(news)
    told = {
        "colour": said.colour,
        "shape": said.shape,
        "motion": said.motion,
        "background": said.background,
    }
    return Case(
        kind="switch",
        index=index,
        seed=_seed(rng),
        timeline=timeline,
        before=before,
        scene=scene,
        told=frozenset(name for name, value in told.items() if value),
        windows={
            "before": Window(_frames(SETTLE_S), switch),
            "after": Window(switch + _frames(SWITCH_SETTLE_S), plan.num_video_frames),
        },
    )


def _long(index: int, sizes: Sizes) -> Case:
    rng = _random("long", index)
    scene = random_scene(rng)
    # who rests has no speed that could be compared
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
        windows={"first": Window(0, part), "last": Window(end - part, end)},
    )
