"""Signed distances of the world's shapes, in units of a body's radius.

Every function takes coordinates of any one shape (x to the right, y down, the body's
centre at 0) and returns the distance to the outline, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def ball(x: Array, y: Array) -> Array:
    """A disc of radius 1."""
    return np.hypot(x, y) - np.float32(1.0)


def pointed(
    x: Array, y: Array, *, points: int, tip: float, valley: float, turn: float, rounding: float
) -> Array:
    """A star or regular polygon: `points` tips, joined by straight edges.

    Tips are `tip` from the centre, before `rounding` is added, the corners between them `valley`;
    the first tip stands at the angle `turn` from straight up, in radians.
    """
    sector = 2 * math.pi / points
    radius = np.hypot(x, y)
    angle = np.arctan2(x, -y) - np.float32(turn)
    folded = np.abs(angle - np.float32(sector) * np.rint(angle / np.float32(sector)))
    # one half sector is left: its only edge runs from the tip to the valley
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    edge_along = valley * math.cos(sector / 2) - tip
    edge_across = valley * math.sin(sector / 2)
    along -= np.float32(tip)
    length = edge_along**2 + edge_across**2
    share = (along * np.float32(edge_along) + across * np.float32(edge_across)) / np.float32(length)
    np.clip(share, 0, 1, out=share)
    distance = np.hypot(
        along - share * np.float32(edge_along), across - share * np.float32(edge_across)
    )
    outside = along * np.float32(edge_across) - across * np.float32(edge_along)
    return np.copysign(distance, outside) - np.float32(rounding)


def heart(x: Array, y: Array) -> Array:
    """Two round cones, mirrored, that meet in the lower tip, and a disc between them."""
    top_x, top_y, top_r, tip_y, tip_r = 0.5, -0.36, 0.58, 0.98, 0.12
    side = np.abs(x) - np.float32(top_x)
    below = y - np.float32(top_y)
    axis_x, axis_y = -top_x, tip_y - top_y
    length = math.hypot(axis_x, axis_y)
    along = (side * np.float32(axis_x) + below * np.float32(axis_y)) / np.float32(length)
    across = (side * np.float32(axis_y) - below * np.float32(axis_x)) / np.float32(length)
    # below the middle a lobe has no inner side: its mirror image goes on from there
    across = np.where(y > 0, across, np.abs(across))
    slope = (top_r - tip_r) / length
    # nearest point of the axis, seen at right angles to the cone's side
    nearest = along + across * np.float32(slope / math.sqrt(1 - slope**2))
    np.clip(nearest, 0, np.float32(length), out=nearest)
    away = np.copysign(np.hypot(along - nearest, across), across)
    lobes = away - (np.float32(top_r) - nearest * np.float32(slope))
    return np.minimum(lobes, np.hypot(x, y) - np.float32(0.58))


SHAPE_DISTANCE: dict[str, Callable[[Array, Array], Array]] = {
    "ball": ball,
    "square": partial(
        pointed, points=4, tip=1.02, valley=1.02 / math.sqrt(2), turn=math.pi / 4, rounding=0.16
    ),
    "triangle": partial(pointed, points=3, tip=1.06, valley=0.53, turn=0.0, rounding=0.2),
    "star": partial(pointed, points=5, tip=1.12, valley=0.62, turn=0.0, rounding=0.12),
    "heart": heart,
}
