"""How subjects move: periodic paths, and how one path gives way to the next.

A *pose* is x, y (world pixels from the picture's centre), angle (radians, clockwise),
scale, and squash (above 1: flatter and wider).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afstream.families.pocket.scene import Clip

Array = NDArray[np.floating]

X, Y, ANGLE, SCALE, SQUASH = range(5)
NUM_POSE_VALUES = 5

PERIOD = {
    "left": 48,
    "right": 48,
    "up": 48,
    "down": 48,
    "circles": 48,
    "bounces": 24,
    "spins": 48,
    "pulses": 32,
    "rests": 1,
}
HEADING = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
IN_PLACE = frozenset({"spins", "pulses", "rests"})

GLIDE_FRAMES = 32
RADIUS_PX = 14.0
HOP_PX = 18.0
SWELL = 0.25
JITTER_PX = 3.0
SETTLE_FRAMES = 6.0


class Home(NamedTuple):
    """Centre of a path, in world pixels from the picture's centre."""

    x: float
    y: float


def ease(share: Array) -> Array:
    """0 to 1 with no speed at either end; clipped outside."""
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def path(motion: str, frames: Array, home: Home) -> Array:
    """Poses [T, 5] of a motion at times [T], in frames since the path's beginning."""
    poses = np.zeros((len(frames), NUM_POSE_VALUES), np.float32)
    poses[:, SCALE:] = 1
    turn = 2 * np.pi * frames / PERIOD[motion]
    if motion in HEADING:
        time = frames % PERIOD[motion]
        spring = ease((time - GLIDE_FRAMES) / (PERIOD[motion] - GLIDE_FRAMES))
        gone = np.minimum(time, GLIDE_FRAMES) - GLIDE_FRAMES / 2 - GLIDE_FRAMES * spring
        poses[:, X], poses[:, Y] = HEADING[motion][0] * gone, HEADING[motion][1] * gone
    elif motion == "circles":
        poses[:, X], poses[:, Y] = RADIUS_PX * np.cos(turn), RADIUS_PX * np.sin(turn)
    elif motion == "bounces":
        height = np.abs(np.sin(turn / 2))
        poses[:, Y] = HOP_PX * (0.5 - height)
        poses[:, SQUASH] = 1 + 0.2 * np.maximum(0, 1 - 3 * height)
    elif motion == "spins":
        poses[:, ANGLE] = turn
    elif motion == "pulses":
        poses[:, SCALE] = 1 + SWELL * np.sin(turn)
    poses[:, X] += home.x
    poses[:, Y] += home.y
    return poses


def unwind(angle: Array) -> Array:
    """The same angle between -pi and pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def nearest_time(motion: str, pose: Array, home: Home) -> float:
    """Time on a motion's path, in frames, whose pose is nearest to `pose` [5].

    Drifts are joined while they glide, never while they spring back.
    """
    last = GLIDE_FRAMES if motion in HEADING else PERIOD[motion]
    times = np.arange(0, last, 0.5, dtype=np.float32)
    apart = path(motion, times, home) - pose
    apart[:, ANGLE] = unwind(apart[:, ANGLE])
    gap = np.square(apart[:, :SQUASH]).sum(axis=1)
    # rounded, so that ties go to the path's beginning whatever the machine
    return float(times[np.argmin(np.round(gap, 3))])


def poses(clip: Clip, num_frames: int) -> Array:
    """Poses [T, 5] of a clip's subject at its first `num_frames` frames.

    A new motion starts at the time of its path that is nearest to the present pose;
    what gap is left fades away. Motions in place stay where the subject is.
    """
    rng = np.random.default_rng(clip.seed)
    centre = Home(*rng.uniform(-JITTER_PX, JITTER_PX, size=2))
    quarter = rng.uniform(0, 0.25)

    changes = [clip.segments[0]]
    for segment in clip.segments[1:]:
        if segment.scene.motion != changes[-1].scene.motion:
            changes.append(segment)
    stops = [*(segment.start for segment in changes[1:]), max(num_frames, changes[-1].start + 1)]

    found = np.zeros((stops[-1], NUM_POSE_VALUES), np.float32)
    first = changes[0].scene.motion
    found[: stops[0]] = path(first, quarter * PERIOD[first] + _count(0, stops[0]), centre)
    for segment, (start, stop) in zip(changes[1:], pairwise(stops), strict=True):
        motion, pose = segment.scene.motion, found[start - 1]
        home = Home(float(pose[X]), float(pose[Y])) if motion in IN_PLACE else centre
        begin = nearest_time(motion, pose, home)
        gap = pose - path(motion, _count(0, 1) + begin, home)[0]
        gap[ANGLE] = unwind(gap[ANGLE])
        frames = _count(1, stop - start + 1)
        fade = np.exp(-frames / SETTLE_FRAMES)[:, None]
        found[start:stop] = path(motion, begin + frames, home) + gap * fade
    return found[:num_frames]


def _count(start: int, stop: int) -> Array:
    return np.arange(start, stop, dtype=np.float32)
