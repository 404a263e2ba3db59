"""Which of the world's motions a subject shows, decided from its track."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from afstream.families.pocket.world import SUBJECT_PX
from pocket_oracle.regions import Array, Mask

# the longest period of the world's motions; less than half of it decides nothing
WINDOW_FRAMES, SHORTEST_FRAMES = 48, 24
HOP_FRAMES = 16
VISIBLE_SHARE = 0.7
# velocities are taken over this many frames, which averages the noise of single frames
LAG_FRAMES = 3

# thresholds; the world has paths of 18 to 32 px, 0.13 radians a frame, scales 0.5 apart
PATH_PX = 6.0
SPIN_PER_FRAME = 0.05
SCALE_RANGE = 0.2
# a circle is nearly as high as wide and has a circulation of 1 at constant speed; a line has 0
ASPECT, CIRCULATION = 0.6, 0.5
STILL_PX = 0.25
# a drift moves one way for two thirds of the time; equal time in both directions is bouncing
DRIFT_SHARE = 0.58


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """Pose of a subject in every frame; all arrays [T], NaN where it is not visible.

    Attributes:
        x: pixels from the picture's left edge.
        y: pixels from the picture's upper edge.
        scale: size relative to the ordinary one.
        angle: radians, clockwise, up to `symmetry`.
        symmetry: rotated by this angle, the subject looks the same.
    """

    x: Array
    y: Array
    scale: Array
    angle: Array
    symmetry: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def visible(self) -> Mask:
        """[T] whether the subject is visible."""
        return ~np.isnan(self.x)

    def part(self, start: int, stop: int) -> Track:
        """Frames `start` to `stop`."""
        cut = slice(start, stop)
        lines = {"x": self.x[cut], "y": self.y[cut], "scale": self.scale[cut]}
        return Track(**lines, angle=self.angle[cut], symmetry=self.symmetry)


def classify_motion(track: Track) -> str | None:
    """What more than half of a track's windows show, each of one period; None if nothing."""
    frames = len(track)
    if frames < SHORTEST_FRAMES:
        return None
    last = max(frames - WINDOW_FRAMES, 0)
    starts = sorted({*range(0, last + 1, HOP_FRAMES), last})
    shown = Counter(_window(track.part(start, start + WINDOW_FRAMES)) for start in starts)
    name, count = shown.most_common(1)[0]
    return name if 2 * count > len(starts) else None


def is_spinning(track: Track) -> bool:
    """Whether a subject rotates as fast as a spinning one does."""
    return abs(_angular_velocity(track)) > SPIN_PER_FRAME


def speed_px(track: Track) -> float | None:
    """Median speed of a subject's outline, pixels a frame; None if it is hardly ever visible.

    The median, because a drift returns faster than it moves ahead, and a stretch of video need
    not hold whole periods.
    """
    if track.visible.mean() < VISIBLE_SHARE or len(track) <= LAG_FRAMES:
        return None
    moving = np.hypot(_velocity(track.x), _velocity(track.y))
    scaling = np.abs(_velocity(track.scale)) * SUBJECT_PX
    spinning = _angular_velocity(track) * SUBJECT_PX
    return float(np.hypot(np.hypot(np.nanmedian(moving), np.nanmedian(scaling)), spinning))


def _window(track: Track) -> str | None:
    if track.visible.mean() < VISIBLE_SHARE:
        return None
    width, height = _extent(track.x), _extent(track.y)
    if max(width, height) < PATH_PX:
        return _in_place(track)
    if min(width, height) > ASPECT * max(width, height):
        return "circles" if _circulation(track) > CIRCULATION else None
    along = _velocity(track.x if width > height else track.y)
    forward, backward = (along > STILL_PX).sum(), (along < -STILL_PX).sum()
    share = forward / max(forward + backward, 1)
    ahead, back = ("right", "left") if width > height else ("down", "up")
    if share > DRIFT_SHARE:
        return ahead
    if share < 1 - DRIFT_SHARE:
        return back
    return "bounces" if height > width else None


def _in_place(track: Track) -> str:
    if is_spinning(track):
        return "spins"
    return "pulses" if _extent(track.scale) > SCALE_RANGE else "rests"


def _extent(values: Array) -> float:
    """Range of the values without a few outliers."""
    low, high = np.nanpercentile(values, (4, 96))
    return float(high - low)


def _velocity(values: Array) -> Array:
    """Change per frame."""
    return (values[LAG_FRAMES:] - values[:-LAG_FRAMES]) * np.float32(1 / LAG_FRAMES)


def _angular_velocity(track: Track) -> float:
    """Median radians a frame, clockwise; 0 where no two frames show the subject."""
    half = track.symmetry / 2
    change = (track.angle[LAG_FRAMES:] - track.angle[:-LAG_FRAMES] + half) % track.symmetry - half
    return 0.0 if np.isnan(change).all() else float(np.nanmedian(change)) / LAG_FRAMES


def _circulation(track: Track) -> float:
    """1 for a circle at constant speed in either direction, 0 for a line."""
    speed_x, speed_y = _velocity(track.x), _velocity(track.y)
    middle = slice(LAG_FRAMES // 2, LAG_FRAMES // 2 + len(speed_x))
    x, y = (line[middle] - np.nanmedian(line) for line in (track.x, track.y))
    crossed = np.nansum(x * speed_y - y * speed_x)
    return float(np.abs(crossed) / np.nansum(np.hypot(x, y) * np.hypot(speed_x, speed_y)))
