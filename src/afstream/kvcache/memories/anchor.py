"""Anchor Forcing's memory: sink, local window, and the first chunk after a switch as junction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from afstream.errors import ConfigError
from afstream.kvcache.memories.window import WindowMemory
from afstream.kvcache.policy import Anchors, Recache
from afstream.kvcache.positions import TRI_REGION, Positions

Junction = Literal["hold", "gap"]


@dataclass(frozen=True, kw_only=True)
class Anchor(WindowMemory):
    """A switch re-caches the window, and the first chunk after it becomes the junction.

    Attributes:
        junction: whether the previous junction stays visible (`hold`) or not (`gap`) until the
            new one has left the local window.
    """

    name = "anchor"

    positions: Positions = TRI_REGION
    junction: Junction = "hold"

    @property
    def settings(self) -> dict[str, object]:
        """Name, lengths, positions and hand-over."""
        return {**super().settings, "junction": self.junction}

    @property
    def num_slots(self) -> int:
        """Sink, local window and two junctions."""
        return self.lengths.window_chunks + 2

    @property
    def num_visible(self) -> int:
        """Sink, local window and one junction."""
        return self.lengths.window_chunks + 1

    def with_junction(self, junction: str) -> Anchor:
        """The same policy with another hand-over.

        Raises:
            ConfigError: it is neither hold nor gap.
        """
        if junction == "hold" or junction == "gap":
            return replace(self, junction=junction)
        raise ConfigError(f"junction hand-over is {junction!r}; choose hold or gap")

    def visible_junction(self, anchors: Anchors, frame: int) -> int | None:
        """The newest junction, once all of it has left the local window; see `junction`."""
        newest, previous = anchors.junction, anchors.previous_junction
        local = self.lengths.local_frames
        if newest is None:
            return None
        if frame >= newest + local:
            return newest
        if self.junction == "gap" or previous is None or frame < previous + local:
            return None
        return previous

    def held(self, anchors: Anchors) -> tuple[int, ...]:
        """Both junctions: the newest before it is visible, the previous one while it is."""
        both = anchors.junction, anchors.previous_junction
        return tuple(frame for frame in both if frame is not None)

    def switch(self, anchors: Anchors, frame: int) -> Recache:
        """Re-cache the window, with the sink and the previous junction as context."""
        return self.recache(anchors, frame)

    def promote(self, anchors: Anchors, frame: int) -> None:
        """Make the chunk at `frame` the newest junction."""
        if frame != anchors.junction:
            anchors.previous_junction, anchors.junction = anchors.junction, frame
