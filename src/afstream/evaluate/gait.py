"""How a subject moves, read from its track."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from afstream.evaluate.regions import Array, Mask
from afstream.families.pocket.world import SUBJECT_PX

# the longest period of the world's motions; less than half of it says nothing
WINDOW_FRAMES, SHORTEST_FRAMES = 48, 24
HOP_FRAMES = 16
SEEN_SHARE = 0.7
# changes are measured over this many frames, which averages the noise of single frames
LAG_FRAMES = 3

# what the world does: paths 18 to 32 px long, 0.13 radians a frame, scales 0.5 apart
PATH_PX = 6.0
TURN_PER_FRAME = 0.05
SWELL = 0.2
# a circle is nearly as high as wide and goes round (1 at a constant speed); a line neither
ROUND, CIRCULATION = 0.6, 0.5
SLOW_PX = 0.25
# a drift glides two thirds of the time and springs back; who comes as he goes is bouncing
GLIDE_SHARE = 0.58


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """Where a subject is, frame by frame; all arrays [T], NaN where it is not seen.

    Attributes:
        x: pixels from the picture's left edge.
        y: pixels from the picture's upper edge.
        scale: 1 is its ordinary size.
        angle: radians, clockwise, up to `symmetry`.
        symmetry: turned by this much, the subject looks the same.
    """

    x: Array
    y: Array
    scale: Array
    angle: Array
    symmetry: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def seen(self) -> Mask:
        """[T] whether the subject is there."""
        return ~np.isnan(self.x)

    def part(self, start: int, stop: int) -> Track:
        """Frames `start` to `stop`."""
        cut = slice(start, stop)
        return Track(
            x=self.x[cut],
            y=self.y[cut],
            scale=self.scale[cut],
            angle=self.angle[cut],
            symmetry=self.symmetry,
        )


def motion(track: Track) -> str | None:
    """What most of a track's windows show, each a full period; None if they disagree."""
    frames = len(track)
    if frames < SHORTEST_FRAMES:
        return None
    last = max(frames - WINDOW_FRAMES, 0)
    starts = sorted({*range(0, last + 1, HOP_FRAMES), last})
    shown = Counter(_window(track.part(start, start + WINDOW_FRAMES)) for start in starts)
    name, count = shown.most_common(1)[0]
    return name if 2 * count > len(starts) else None


def turns(track: Track) -> bool:
    """Whether a subject turns as a spinning one does."""
    return abs(_turn_per_frame(track)) > TURN_PER_FRAME


def speed_px(track: Track) -> float | None:
    """Pixels that a subject's outline moves in a frame, in the median; None if it is unseen.

    The median, because a drift springs back faster than it glides, and a stretch of video
    need not hold whole periods.
    """
    if track.seen.mean() < SEEN_SHARE or len(track) <= LAG_FRAMES:
        return None
    going = np.hypot(_change(track.x), _change(track.y))
    swelling = np.abs(_change(track.scale)) * SUBJECT_PX
    turning = _turn_per_frame(track) * SUBJECT_PX
    return float(np.hypot(np.hypot(np.nanmedian(going), np.nanmedian(swelling)), turning))


def _window(track: Track) -> str | None:
    if track.seen.mean() < SEEN_SHARE:
        return None
    width, height = _extent(track.x), _extent(track.y)
    if max(width, height) < PATH_PX:
        return _in_place(track)
    if min(width, height) > ROUND * max(width, height):
        return "circles" if _circulation(track) > CIRCULATION else None
    along = _change(track.x if width > height else track.y)
    forwards, backwards = (along > SLOW_PX).sum(), (along < -SLOW_PX).sum()
    share = forwards / max(forwards + backwards, 1)
    ahead, back = ("right", "left") if width > height else ("down", "up")
    if share > GLIDE_SHARE:
        return ahead
    if share < 1 - GLIDE_SHARE:
        return back
    return "bounces" if height > width else None


def _in_place(track: Track) -> str:
    if turns(track):
        return "spins"
    return "pulses" if _extent(track.scale) > SWELL else "rests"


def _extent(values: Array) -> float:
    """From the smallest to the largest value, but for a few outliers."""
    low, high = np.nanpercentile(values, (4, 96))
    return float(high - low)


def _change(values: Array) -> Array:
    """Change a frame."""
    return (values[LAG_FRAMES:] - values[:-LAG_FRAMES]) * np.float32(1 / LAG_FRAMES)


def _turn_per_frame(track: Track) -> float:
    """Radians a frame, clockwise, in the median; 0 where no two frames show the subject."""
    half = track.symmetry / 2
    turned = (track.angle[LAG_FRAMES:] - track.angle[:-LAG_FRAMES] + half) % track.symmetry - half
    if np.isnan(turned).all():
        return 0.0
    return float(np.nanmedian(turned)) / LAG_FRAMES


def _circulation(track: Track) -> float:
    """1 for a circle at constant speed, either way round; 0 for going to and fro."""
    speed_x, speed_y = _change(track.x), _change(track.y)
    middle = slice(LAG_FRAMES // 2, LAG_FRAMES // 2 + len(speed_x))
    x, y = (line[middle] - np.nanmedian(line) for line in (track.x, track.y))
    crossed = np.nansum(x * speed_y - y * speed_x)
    return float(np.abs(crossed) / np.nansum(np.hypot(x, y) * np.hypot(speed_x, speed_y)))
