"""Template matching of the pocket world's subjects: shape, position, size and rotation.

A region is scaled to the area of each shape and compared with that shape at every angle;
the largest intersection over union wins. Parts of a region that are not visible, outside the
picture or behind the companion, are filled in from the best fit so far.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afstream.families.pocket.scene import SHAPES, WORLD_PX
from afstream.families.pocket.shapes import SHAPE_DISTANCE
from afstream.families.pocket.world import COMPANION_HOME, EYE_RADIUS, EYE_X, EYE_Y, SUBJECT_PX
from pocket_oracle.regions import Array, Mask

NUM_ANGLES = 72
# a subject that does not spin is within this many angle steps of upright
UPRIGHT_ANGLES = 2
# a patch spans 1.5 radii to each side of a region's centre, a sample every tenth of a radius
PATCH_RADII, PATCH_SIDE = 1.5, 31
# weight of the eyes relative to the outline; only they show how a ball is rotated
EYE_WEIGHT = 0.25
FACE_RADII = 0.6
# radius around its home that a companion covers, tips and blur included
CORNER_PX = 9.5
# subjects leave the picture by less than this
MARGIN_PX = 12
FILL_ROUNDS = 4
# a subject nearer than this to the edge or the companion may be partly hidden
NEAR_RADII = 1.3
# rotated by this angle a shape looks the same; a ball's eyes show half turns only
SYMMETRY = {
    "ball": np.pi,
    "square": np.pi / 2,
    "triangle": 2 * np.pi / 3,
    "star": 2 * np.pi / 5,
    "heart": 2 * np.pi,
}


class ShapeFit(NamedTuple):
    """The best fit in each of N pictures.

    Attributes:
        rotated: [N, shapes] intersection over union of each shape at its best angle.
        upright: [N, shapes] the same among angles near 0.
        shape: [N] index into `SHAPES` of the best shape at any angle.
        x: [N] horizontal centre, pixels.
        y: [N] vertical centre, pixels.
        radius: [N] pixels.
        angle: [N] radians, clockwise.
    """

    rotated: Array
    upright: Array
    shape: NDArray[np.intp]
    x: Array
    y: Array
    radius: Array
    angle: Array


class _Templates(NamedTuple):
    """Every shape at every angle, centred on its centre of mass, at P samples.

    Attributes:
        cover: [shapes, angles, P] coverage.
        eyes: [shapes, angles, P] weights that sum to 1 in the eyes and to -1 around them.
        area: [shapes] area at radius 1.
        centroid: [shapes, angles, 2] offset of the centre of mass from the centre, in radii.
    """

    cover: Array
    eyes: Array
    area: Array
    centroid: Array


def fit_shapes(regions: Mask, dark: Array) -> ShapeFit:
    """ShapeFit every shape to each region.

    Args:
        regions: [N, H, W] masks, none of them empty, none in the companion's corner.
        dark: [N, H, W] darkness of each pixel relative to the subject's colour, 0 to 1.
    """
    margin = ((0, 0), (MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX))
    whole = np.pad(regions, margin).astype(np.float32)
    dark = np.pad(dark, margin)
    seen = np.pad(visible_mask(), MARGIN_PX)
    fit = _fit(whole, dark, seen)
    hidden = _near_hidden(fit)
    for _ in range(FILL_ROUNDS if hidden.any() else 0):
        so_far = ShapeFit._make(field[hidden] for field in fit)
        whole[hidden] = np.where(seen, whole[hidden], _cover(so_far, seen.shape))
        better = _fit(whole[hidden], dark[hidden], seen)
        for field, value in zip(fit, better, strict=True):
            field[hidden] = value
    return fit._replace(x=fit.x - MARGIN_PX, y=fit.y - MARGIN_PX)


def _fit(whole: Array, dark: Array, seen: Mask) -> ShapeFit:
    templates = _templates()
    height, width = seen.shape
    mass = whole.sum(axis=(1, 2))
    middle_x = whole.sum(axis=1) @ np.arange(width, dtype=np.float32) / mass
    middle_y = whole.sum(axis=2) @ np.arange(height, dtype=np.float32) / mass
    radius = np.sqrt(mass[:, None] / templates.area)

    across, down = _samples()
    x = np.rint(middle_x[:, None, None] + radius[:, :, None] * across).astype(np.int32)
    y = np.rint(middle_y[:, None, None] + radius[:, :, None] * down).astype(np.int32)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)
    visible = (inside & seen.ravel()[place]).astype(np.float32)
    picture = np.arange(len(whole))[:, None, None]
    body = whole.reshape(len(whole), -1)[picture, place] * visible
    darkness = dark.reshape(len(dark), -1)[picture, place] * visible

    common = _correlate(body, templates.cover)
    union = body.sum(axis=2)[:, :, None] + _correlate(visible, templates.cover) - common
    overlap = common / np.maximum(union, 1)
    score = overlap + np.float32(EYE_WEIGHT) * _correlate(darkness, templates.eyes)
    best = score.argmax(axis=2)

    rotated = np.take_along_axis(overlap, best[:, :, None], axis=2)[:, :, 0]
    near_zero = np.arange(-UPRIGHT_ANGLES, UPRIGHT_ANGLES + 1)
    shape = rotated.argmax(axis=1)
    rows = np.arange(len(whole))
    angle, radius = best[rows, shape], radius[rows, shape]
    offset = templates.centroid[shape, angle] * radius[:, None]
    return ShapeFit(
        rotated=rotated,
        upright=overlap[:, :, near_zero].max(axis=2),
        shape=shape,
        x=middle_x - offset[:, 0],
        y=middle_y - offset[:, 1],
        radius=radius,
        angle=_angles()[angle],
    )


def _correlate(patches: Array, templates: Array) -> Array:
    """[N, shapes, P] and [shapes, angles, P] -> [N, shapes, angles]."""
    return np.matmul(patches.swapaxes(0, 1), templates.swapaxes(1, 2)).swapaxes(0, 1)


@lru_cache(maxsize=1)
def visible_mask() -> Mask:
    """[H, W] mask of the pixels that a companion at its home does not cover."""
    rows, columns = np.indices((WORLD_PX, WORLD_PX)) + 0.5 - WORLD_PX / 2
    return np.hypot(columns - COMPANION_HOME[0], rows - COMPANION_HOME[1]) > CORNER_PX


def _near_hidden(fit: ShapeFit) -> Mask:
    """[N] whether a fit reaches the picture's edge or the companion's corner."""
    half = WORLD_PX / 2
    x, y = fit.x - MARGIN_PX + 0.5 - half, fit.y - MARGIN_PX + 0.5 - half
    to_edge = half - np.maximum(np.abs(x), np.abs(y))
    to_corner = np.hypot(x - COMPANION_HOME[0], y - COMPANION_HOME[1]) - CORNER_PX
    return np.minimum(to_edge, to_corner) < NEAR_RADII * fit.radius


def _cover(fit: ShapeFit, size: tuple[int, ...]) -> Array:
    """Coverage [N, H, W] of the fitted shapes."""
    rows, columns = np.indices(size, dtype=np.float32)
    found = np.empty((len(fit.x), *size), np.float32)
    for picture, shape, x, y, radius, angle in zip(
        found, fit.shape, fit.x, fit.y, fit.radius, fit.angle, strict=True
    ):
        across, down = _rotated((columns - x) / radius, (rows - y) / radius, angle)
        edge = SHAPE_DISTANCE[SHAPES[shape]](across, down) * radius
        picture[:] = np.clip(0.5 - edge, 0, 1)
    return found


def _samples() -> tuple[Array, Array]:
    """Coordinates [P] of a patch's samples, in radii."""
    line = np.linspace(-PATCH_RADII, PATCH_RADII, PATCH_SIDE, dtype=np.float32)
    across, down = np.meshgrid(line, line)
    return across.ravel(), down.ravel()


def _angles() -> Array:
    return (np.arange(NUM_ANGLES) * (2 * np.pi / NUM_ANGLES)).astype(np.float32)


def _rotated(across: Array, down: Array, angle: Array) -> tuple[Array, Array]:
    """Screen coordinates in the frame of a subject rotated by `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return across * cos + down * sin, down * cos - across * sin


@lru_cache(maxsize=1)
def _templates() -> _Templates:
    across, down = _samples()
    area_of_sample = (2 * PATCH_RADII / (PATCH_SIDE - 1)) ** 2
    cos, sin = np.cos(_angles()), np.sin(_angles())
    covers: list[Array] = []
    eyes: list[Array] = []
    areas: list[float] = []
    middles: list[Array] = []
    for name in SHAPES:
        upright = _soft(SHAPE_DISTANCE[name](across, down))
        x, y = (upright @ across / upright.sum(), upright @ down / upright.sum())
        middle = np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
        own_x, own_y = _rotated(across + middle[:, :1], down + middle[:, 1:], _angles()[:, None])
        covers.append(_soft(SHAPE_DISTANCE[name](own_x, own_y)))
        to_eye = np.hypot(np.abs(own_x) - np.float32(EYE_X), own_y - np.float32(EYE_Y))
        eye = _soft(to_eye - np.float32(EYE_RADIUS))
        rest = _soft(np.hypot(own_x, own_y) - np.float32(FACE_RADII)) * (1 - eye)
        eyes.append(eye / eye.sum(1, keepdims=True) - rest / rest.sum(1, keepdims=True))
        areas.append(float(upright.sum()) * area_of_sample)
        middles.append(middle)
    stacks = (np.stack(covers), np.stack(eyes), np.array(areas), np.stack(middles))
    return _Templates._make(stack.astype(np.float32) for stack in stacks)


def _soft(distance: Array) -> Array:
    """Coverage from a distance in radii, with the soft edge of a subject of ordinary size."""
    return np.clip(0.5 - distance * SUBJECT_PX, 0, 1).astype(np.float32)
