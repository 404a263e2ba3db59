"""The five still backgrounds, drawn once for each picture size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from afstream.families.pocket.scene import WORLD_PX

Array = NDArray[np.floating]
Colour = tuple[int, int, int]

NIGHT_STARS = (
    (7, 9, 0.9),
    (19, 17, 0.6),
    (13, 31, 0.7),
    (29, 6, 0.7),
    (36, 19, 0.6),
    (57, 30, 0.8),
    (5, 45, 0.5),
    (24, 40, 0.5),
    (45, 36, 0.5),
    (60, 44, 0.5),
)


def rgb(colour: Colour) -> Array:
    """8-bit red, green, blue as float32 [3] in [-1, 1]."""
    return np.asarray(colour, np.float32) / np.float32(127.5) - np.float32(1)


class _Canvas:
    """A picture [3, H, W] in the making; coordinates are world pixels."""

    def __init__(self, size: int, top: Colour, bottom: Colour, horizon: float = WORLD_PX) -> None:
        unit = WORLD_PX / size
        line = ((np.arange(size, dtype=np.float32) + 0.5) * unit).astype(np.float32)
        self.unit = unit
        self.x, self.y = line[None, :], line[:, None]
        self.pixels = np.empty((3, size, size), np.float32)
        self.pixels[:] = self._blend(top, bottom, self.y / horizon)

    def _blend(self, top: Colour, bottom: Colour, share: Array) -> Array:
        share = np.clip(share, 0, 1)
        return rgb(top)[:, None, None] * (1 - share) + rgb(bottom)[:, None, None] * share

    def paint(
        self, distance: Array, colour: Colour, bottom: Colour | None = None, strength: float = 1
    ) -> None:
        """Fill where `distance` (world pixels) is negative, with a soft edge of a pixel.

        `bottom` shades from `colour` at the picture's middle to itself at the lower edge.
        """
        cover = np.clip(0.5 - distance / self.unit, 0, 1) * strength
        fill = self._blend(colour, bottom or colour, (self.y - WORLD_PX / 2) / (WORLD_PX / 2))
        self.pixels += (fill - self.pixels) * cover

    def disc(self, x: float, y: float, radius: float) -> Array:
        """Distance to a disc."""
        return np.hypot(self.x - x, self.y - y) - radius

    def hill(self, x: float, top: float, radius: float) -> Array:
        """Distance to a wide disc whose highest point is (x, top)."""
        return self.disc(x, top + radius, radius)


def _night(size: int) -> Array:
    canvas = _Canvas(size, (12, 14, 48), (52, 46, 110))
    for x, y, radius in NIGHT_STARS:
        canvas.paint(canvas.disc(x, y, radius), (255, 250, 220))
    moon = np.maximum(canvas.disc(51, 12, 6.5), -canvas.disc(47.6, 10, 5.6))
    canvas.paint(moon, (255, 240, 180))
    canvas.paint(canvas.hill(14, 54, 70), (24, 26, 70), (14, 16, 48))
    return canvas.pixels


def _meadow(size: int) -> Array:
    canvas = _Canvas(size, (112, 190, 250), (214, 240, 255), 46)
    for x, y, radius in ((10, 13, 3.4), (14.5, 11, 4.4), (19.5, 13, 3.2)):
        canvas.paint(canvas.disc(x, y, radius), (255, 255, 255), strength=0.9)
    canvas.paint(canvas.hill(54, 38, 60), (120, 206, 104), (92, 186, 84))
    canvas.paint(canvas.hill(10, 44, 64), (104, 196, 84), (62, 160, 66))
    return canvas.pixels


def _sunset(size: int) -> Array:
    canvas = _Canvas(size, (214, 84, 120), (255, 190, 96), 46)
    canvas.paint(canvas.disc(46, 45, 9), (255, 236, 150))
    canvas.paint(canvas.hill(40, 45, 150), (134, 58, 74), (74, 32, 62))
    return canvas.pixels


def _snow(size: int) -> Array:
    canvas = _Canvas(size, (166, 178, 200), (214, 220, 232), 46)
    for x, top in ((7, 27), (14, 31), (58, 29)):
        height = 46 - top
        tree = np.maximum(np.abs(canvas.x - x) - (canvas.y - top) * 0.34, canvas.y - top - height)
        canvas.paint(tree * 0.9, (112, 142, 150))
    canvas.paint(canvas.hill(52, 41, 90), (232, 238, 248))
    canvas.paint(canvas.hill(12, 45, 70), (252, 253, 255), (228, 234, 246))
    return canvas.pixels


def _sea(size: int) -> Array:
    canvas = _Canvas(size, (150, 222, 240), (244, 252, 250), 40)
    canvas.paint(38 - canvas.y + 0 * canvas.x, (64, 190, 196), (10, 112, 146))
    for row, shift in ((43, 0.0), (49, 2.1), (56, 4.4)):
        wave = np.abs(canvas.y - row - 0.9 * np.sin(canvas.x * 0.42 + shift)) - 0.55
        canvas.paint(wave, (188, 240, 236), strength=0.55)
    return canvas.pixels


_PAINTERS = {"night": _night, "meadow": _meadow, "sunset": _sunset, "snow": _snow, "sea": _sea}


@lru_cache(maxsize=32)
def backdrop(name: str, size: int) -> Array:
    """A background [3, size, size] in [-1, 1]; shared between callers, so read-only."""
    pixels = _PAINTERS[name](size)
    pixels.setflags(write=False)
    return pixels
