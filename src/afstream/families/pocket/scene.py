"""What the pocket world can show: subjects, scenes and clips, as plain data.

Lengths of the world are *world pixels*: pixels of a 64 x 64 picture. Larger pictures
show the same world, scaled up.
"""

from __future__ import annotations

from dataclasses import dataclass

from afstream.families.pocket.facts import FORMAT, GEOMETRY, LENGTHS
from afstream.geometry import ChunkClock

WORLD_PX = GEOMETRY.width_px
CLOCK = ChunkClock(format=FORMAT, chunk_frames=LENGTHS.chunk_frames)
SHAPES = ("ball", "square", "triangle", "star", "heart")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
MOTIONS = ("left", "right", "up", "down", "circles", "bounces", "spins", "pulses", "rests")
BACKGROUNDS = ("night", "meadow", "sunset", "snow", "sea")


def _check(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"{what} is {given!r}; choose one of {', '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class Subject:
    """One coloured shape with two eyes."""

    shape: str
    colour: str

    def __post_init__(self) -> None:
        """Refuse a shape or colour that the world does not have."""
        _check("shape", self.shape, SHAPES)
        _check("colour", self.colour, COLOURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything a picture shows, but for where in its motion the subject is.

    The motion is one of `MOTIONS`, a direction means drifting that way; the background one of
    `BACKGROUNDS`. A companion is a small second character in the lower right corner.
    """

    subject: Subject
    motion: str
    background: str
    companion: Subject | None = None

    def __post_init__(self) -> None:
        """Refuse a motion or background that the world does not have."""
        _check("motion", self.motion, MOTIONS)
        _check("background", self.background, BACKGROUNDS)

    @property
    def attributes(self) -> dict[str, object]:
        """What a caption can tell of it, by name."""
        return {
            "shape": self.subject.shape,
            "colour": self.subject.colour,
            "motion": self.motion,
            "background": self.background,
            "companion": self.companion,
        }

    def changes(self, before: Scene) -> frozenset[str]:
        """Names of the attributes that differ from those of another scene."""
        was = before.attributes
        return frozenset(name for name, value in self.attributes.items() if value != was[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a clip under one caption; it lasts until the next one starts."""

    start: int
    scene: Scene
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Segments in order, and the seed that places the subject at the first frame.

    After the first frame nothing is random: state and scene decide what follows.
    """

    segments: tuple[Segment, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse segments that do not start at frame 0 and go on in order."""
        starts = [segment.start for segment in self.segments]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(f"segments start at {starts}; they must rise from 0")


def chunk_start(index: int) -> int:
    """Video frame at which chunk `index` of a scene starts: 0, 9, 21, 33, ..."""
    return CLOCK.first_video_frame(index)
