"""Memories that compute their window anew at a switch, without a junction."""

from __future__ import annotations

from dataclasses import dataclass

from afstream.kvcache.memories.window import WindowMemory
from afstream.kvcache.policy import Anchors, Recache
from afstream.kvcache.positions import TRI_REGION, Positions


@dataclass(frozen=True, kw_only=True)
class RecacheWindow(WindowMemory):
    """LongLive's memory: a switch computes the local window anew and keeps the sink."""

    name = "recache"

    def switch(self, anchors: Anchors, frame: int) -> Recache:
        """The window is computed anew, warm from the sink."""
        return self.recache(anchors, frame)


@dataclass(frozen=True, kw_only=True)
class Recapture(RecacheWindow):
    """A switch computes the whole window anew; its first chunks become the sink."""

    name = "recapture"

    positions: Positions = TRI_REGION

    def switch(self, anchors: Anchors, frame: int) -> Recache:
        """The sink moves to the window's start, and the window is computed anew from nothing."""
        anchors.sink = max(0, frame - self.lengths.window_frames)
        return self.recache(anchors, frame)
