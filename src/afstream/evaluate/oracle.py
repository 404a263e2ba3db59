"""The oracle: what a stretch of video of the pocket world shows, attribute by attribute.

It knows the world but neither the prompt nor the model. Frames are read as they come and
forgotten; what stays is a few numbers a frame, so that any stretch can be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afstream.evaluate.bodies import SYMMETRY
from afstream.evaluate.gait import Track, motion, speed_px, turns
from afstream.evaluate.regions import Array
from afstream.evaluate.sight import UNDECIDED, Index, Sightings, look
from afstream.families.pocket.scene import BACKGROUNDS, COLOURS, SHAPES, Scene

# a body must fit a shape by this much, intersection over union
OVERLAP = 0.65
READABLE = ("colour", "shape", "motion", "background")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a stretch of video shows; None where that cannot be told.

    Attributes:
        shape: of the main subject.
        colour: of the main subject.
        motion: of the main subject; never told of less than 1.5 s.
        background: behind it.
        present: share of frames in which there is a main subject.
        speed_px: how far its outline moves in a frame, whether it goes, turns or swells.
        sharpness: mean steepness of edges, brightness (0 to 1) per pixel.
    """

    shape: str | None
    colour: str | None
    motion: str | None
    background: str | None
    present: float
    speed_px: float | None
    sharpness: float

    @property
    def shown(self) -> dict[str, str | None]:
        """The value of each of `READABLE`."""
        return {
            "colour": self.colour,
            "shape": self.shape,
            "motion": self.motion,
            "background": self.background,
        }


def attributes(scene: Scene) -> dict[str, str]:
    """What a scene should show: the value of each of `READABLE`."""
    return {
        "colour": scene.subject.colour,
        "shape": scene.subject.shape,
        "motion": scene.motion,
        "background": scene.background,
    }


class Oracle:
    """Watches one video and answers questions about any stretch of it."""

    def __init__(self) -> None:
        self._seen: list[Sightings] = []
        self.num_frames = 0

    def watch(self, frames: NDArray[np.uint8] | Array) -> None:
        """Read the next frames [N, 64, 64, 3], uint8 or floats in [-1, 1]."""
        self._seen.append(look(frames))
        self.num_frames += len(frames)

    def read(self, start: int = 0, stop: int | None = None) -> Reading:
        """What frames `start` to `stop` (the last one by default) show."""
        seen = self._stretch(start, stop)
        track = _track(seen)
        return Reading(
            shape=_mostly(_shapes(seen, track), SHAPES),
            colour=_mostly(seen.colour, COLOURS),
            motion=motion(track),
            background=_mostly(seen.background, BACKGROUNDS),
            present=float(seen.present.mean()),
            speed_px=speed_px(track),
            sharpness=float(seen.sharpness.mean()),
        )

    def track(self, start: int = 0, stop: int | None = None) -> Track:
        """Where the main subject is in frames `start` to `stop`."""
        return _track(self._stretch(start, stop))

    def _stretch(self, start: int, stop: int | None) -> Sightings:
        stop = self.num_frames if stop is None else stop
        if not 0 <= start < stop <= self.num_frames:
            raise ValueError(
                f"frames {start} to {stop} asked for; {self.num_frames} have been watched"
            )
        whole = Sightings._make(np.concatenate(parts) for parts in zip(*self._seen, strict=True))
        return Sightings._make(field[start:stop] for field in whole)


def read(frames: NDArray[np.uint8] | Array) -> Reading:
    """What a short video [N, 64, 64, 3] shows."""
    oracle = Oracle()
    oracle.watch(frames)
    return oracle.read()


def _shapes(seen: Sightings, track: Track) -> Index:
    """Shapes [N]; who does not spin stands upright, and no shape may pass for another turned."""
    overlap = seen.turned if turns(track) else seen.upright
    return np.where(overlap.max(axis=1) > OVERLAP, overlap.argmax(axis=1), UNDECIDED)


def _mostly(indices: Index, names: tuple[str, ...]) -> str | None:
    """The name that more than half of all frames show."""
    counts = np.bincount(indices[indices != UNDECIDED], minlength=len(names))
    return names[counts.argmax()] if 2 * counts.max() > len(indices) else None


def _track(seen: Sightings) -> Track:
    x, y, scale, angle = (
        np.where(seen.present, line, np.float32("nan"))
        for line in (seen.x, seen.y, seen.scale, seen.angle)
    )
    kinds = np.bincount(seen.kind[seen.present], minlength=len(SHAPES))
    symmetry = SYMMETRY[SHAPES[kinds.argmax()]]
    return Track(x=x, y=y, scale=scale, angle=angle, symmetry=symmetry)
