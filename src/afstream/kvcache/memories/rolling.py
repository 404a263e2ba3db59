"""Memories that re-cache nothing at a switch."""

from __future__ import annotations

from dataclasses import dataclass

from afstream.kvcache.memories.window import WindowMemory
from afstream.kvcache.policy import Anchors


@dataclass(frozen=True, kw_only=True)
class Rolling(WindowMemory):
    """Self-Forcing's memory: a switch changes nothing but the text."""

    name = "rolling"


@dataclass(frozen=True, kw_only=True)
class Clear(WindowMemory):
    """A switch forgets everything that came before it."""

    name = "clear"

    def switch(self, anchors: Anchors, frame: int) -> None:
        """Hide everything before `frame`."""
        anchors.floor = frame
