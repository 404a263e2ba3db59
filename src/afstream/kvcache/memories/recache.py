"""Memories that re-cache their window at a switch and have no junction."""

from __future__ import annotations

from dataclasses import dataclass

from afstream.kvcache.memories.window import WindowMemory
from afstream.kvcache.policy import Anchors, Recache
from afstream.kvcache.positions import TRI_REGION, Positions


@dataclass(frozen=True, kw_only=True)
class RecacheWindow(WindowMemory):
    """LongLive's memory: a switch re-caches the local window and keeps the sink."""

    name = "recache"

    def switch(self, anchors: Anchors, frame: int) -> Recache:
        """Re-cache the window, with the sink as context."""
        return self.recache(anchors, frame)


@dataclass(frozen=True, kw_only=True)
class Recapture(RecacheWindow):
    """A switch re-caches the whole window, whose first chunks become the sink."""

    name = "recapture"

    positions: Positions = TRI_REGION

    def switch(self, anchors: Anchors, frame: int) -> Recache:
        """Move the sink to the window's start, and re-cache the window without context."""
        anchors.sink = max(0, frame - self.lengths.window_frames)
        return self.recache(anchors, frame)
