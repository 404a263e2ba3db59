"""The oracle: reads from video of the pocket world which attributes it shows.

It knows the world but neither the prompt nor the model. It keeps a few features of each frame,
not the frames, so that any part of a long video can be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afstream.families.pocket.scene import BACKGROUNDS, COLOURS, SHAPES, Scene
from pocket_oracle.features import UNDECIDED, FrameFeatures, Index, extract_features
from pocket_oracle.motion import Track, classify_motion, is_spinning, speed_px
from pocket_oracle.regions import Array
from pocket_oracle.shape_fit import SYMMETRY

# least intersection over union of a subject and a shape
OVERLAP = 0.65
READABLE = ("colour", "shape", "motion", "background")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a part of a video shows; None where that is undecided.

    Attributes:
        shape: of the main subject.
        colour: of the main subject.
        motion: of the main subject; always None for less than 1.5 s.
        background: behind the subject.
        present: share of frames in which there is a main subject.
        speed_px: pixels that its outline moves in a frame by moving, rotating and scaling.
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
        return {name: getattr(self, name) for name in READABLE}


def attributes(scene: Scene) -> dict[str, str]:
    """What a scene should show: the value of each of `READABLE`."""
    return {
        "colour": scene.subject.colour,
        "shape": scene.subject.shape,
        "motion": scene.motion,
        "background": scene.background,
    }


class Oracle:
    """Watches one video and reads any part of it."""

    def __init__(self) -> None:
        self._features: list[FrameFeatures] = []
        self.num_frames = 0

    def watch(self, frames: NDArray[np.uint8] | Array) -> None:
        """Take in the next frames [N, 64, 64, 3], uint8 or floats in [-1, 1]."""
        self._features.append(extract_features(frames))
        self.num_frames += len(frames)

    def read(self, start: int = 0, stop: int | None = None) -> Reading:
        """What frames `start` to `stop` (the last one by default) show.

        Raises:
            ValueError: these frames have not been watched.
        """
        stop = self.num_frames if stop is None else stop
        if not 0 <= start < stop <= self.num_frames:
            raise ValueError(
                f"frames {start} to {stop} asked for; {self.num_frames} have been watched"
            )
        columns = zip(*self._features, strict=True)
        part = FrameFeatures._make(np.concatenate(column)[start:stop] for column in columns)
        track = _track(part)
        return Reading(
            shape=_majority(_shapes(part, track), SHAPES),
            colour=_majority(part.colour, COLOURS),
            motion=classify_motion(track),
            background=_majority(part.background, BACKGROUNDS),
            present=float(part.present.mean()),
            speed_px=speed_px(track),
            sharpness=float(part.sharpness.mean()),
        )


def read(frames: NDArray[np.uint8] | Array) -> Reading:
    """What a short video [N, 64, 64, 3] shows."""
    oracle = Oracle()
    oracle.watch(frames)
    return oracle.read()


def _shapes(features: FrameFeatures, track: Track) -> Index:
    """Shapes [N]; a subject that does not spin is matched upright only.

    Otherwise a shape could be taken for another one that is rotated.
    """
    overlap = features.rotated if is_spinning(track) else features.upright
    return np.where(overlap.max(axis=1) > OVERLAP, overlap.argmax(axis=1), UNDECIDED)


def _majority(indices: Index, names: tuple[str, ...]) -> str | None:
    """The name that more than half of all frames show."""
    counts = np.bincount(indices[indices != UNDECIDED], minlength=len(names))
    return names[counts.argmax()] if 2 * counts.max() > len(indices) else None


def _track(features: FrameFeatures) -> Track:
    x, y, scale, angle = (
        np.where(features.present, line, np.float32("nan"))
        for line in (features.x, features.y, features.scale, features.angle)
    )
    counts = np.bincount(features.shape[features.present], minlength=len(SHAPES))
    symmetry = SYMMETRY[SHAPES[counts.argmax()]]
    return Track(x=x, y=y, scale=scale, angle=angle, symmetry=symmetry)
