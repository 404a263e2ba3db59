"""Layouts of model folders: one module each, one row of `CERTAIN` or `LIKELY` each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afstream.checkpoints.kinds import PIECES, Piece
from afstream.checkpoints.layouts.base import Layout, LayoutName, WanFolder
from afstream.checkpoints.layouts.comfyui import comfyui
from afstream.checkpoints.layouts.converted import converted
from afstream.checkpoints.layouts.diffusers import diffusers
from afstream.checkpoints.layouts.original import original

__all__ = ["CERTAIN", "LIKELY", "Layout", "LayoutName", "WanFolder", "layout_of"]

# told by names that no other layout has
CERTAIN: tuple[Layout, ...] = (converted, comfyui)
# they share names with other models; of those that lack the same, the first is taken
LIKELY: tuple[Layout, ...] = (original, diffusers)


def layout_of(path: Path, wanted: Sequence[Piece] = PIECES) -> WanFolder | None:
    """A folder in the layout that it fits best, pieces missing or not; None when it fits none.

    Raises:
        OSError: it is out of reach.
    """
    for layout in CERTAIN:
        if found := layout(path):
            return found
    likely = [one for layout in LIKELY if (one := layout(path))]
    return min(likely, key=lambda one: len(one.missing(wanted)), default=None)
