"""The interface of a memory: what a stream keeps of its past, and what a prompt switch does.

A memory is one class with the methods of `MemoryPolicy` and one row in
`afstream.kvcache.memories`. All lengths are latent frames and whole chunks; frames count from the
scene's start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from afstream.config import WindowLengths
from afstream.kvcache.positions import Visible


@dataclass(slots=True)
class Anchors:
    """State of a memory policy in one scene: which frames it keeps.

    Attributes:
        sink: first frame of the sink; 0 until a switch replaces it.
        floor: earliest frame still remembered; above 0 after the memory was emptied.
        junction: first frame of the newest junction, None before a switch.
        previous_junction: the one before it, kept until the newest can be seen.
    """

    sink: int = 0
    floor: int = 0
    junction: int | None = None
    previous_junction: int | None = None


class Recache(NamedTuple):
    """Finished frames that a switch recomputes under the new prompt, in one call.

    Attributes:
        frame: the first of them.
        num_frames: how many, all attending to each other and to the anchors.
        rewritten: first frames of the chunks among them whose keys and values are kept.
    """

    frame: int
    num_frames: int
    rewritten: tuple[int, ...]


class MemoryPolicy(Protocol):
    """What a stream remembers. Stateless: the state of a scene is an `Anchors`."""

    @property
    def name(self) -> str:
        """The memory's name, a key of `MEMORIES`."""
        ...

    @property
    def lengths(self) -> WindowLengths:
        """Window, sink, chunk and horizon."""
        ...

    @property
    def settings(self) -> dict[str, object]:
        """All settings as plain data, for a run record."""
        ...

    @property
    def num_slots(self) -> int:
        """Number of finished chunks that are kept at the same time."""
        ...

    @property
    def num_visible(self) -> int:
        """The most chunks that a chunk can see, itself included."""
        ...

    def with_junction(self, junction: str) -> MemoryPolicy:
        """The same policy with another hand-over between two junctions.

        Raises:
            ConfigError: an unknown hand-over, or a memory without junctions.
        """
        ...

    def start(self) -> Anchors:
        """The state at a scene's start."""
        ...

    def query_position(self, frame: int, num_frames: int) -> int:
        """Temporal position of the first of `num_frames` query frames that start at `frame`."""
        ...

    def visible(self, anchors: Anchors, frame: int, num_frames: int) -> Sequence[Visible]:
        """The chunks that a query block sees, its own chunks last.

        Args:
            anchors: the state of the scene.
            frame: the block's first frame.
            num_frames: n, a multiple of the chunk.
        """
        ...

    def held(self, anchors: Anchors) -> Collection[int]:
        """First frames of chunks that must be kept although no query may see them now."""
        ...

    def switch(self, anchors: Anchors, frame: int) -> Recache | None:
        """Update the anchors before the chunk at `frame` runs under a new prompt.

        Args:
            anchors: changed in place.
            frame: above 0.

        Returns:
            The frames to recompute; None where stored keys and values stay as they are.
        """
        ...

    def promote(self, anchors: Anchors, frame: int) -> None:
        """Make the chunk at `frame`, the first of its prompt, the newest junction, if any."""
        ...
