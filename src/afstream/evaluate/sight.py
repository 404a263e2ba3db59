"""What single frames of the pocket world show, found by comparing them with the world itself."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afstream.evaluate.bodies import fit_bodies, outside_corner
from afstream.evaluate.regions import Array, Mask, fill_holes, flood, local_range, local_sum
from afstream.families.pocket.backdrops import backdrop, rgb
from afstream.families.pocket.scene import BACKGROUNDS, COLOURS, SHAPES, WORLD_PX
from afstream.families.pocket.world import INK, PALETTE, SUBJECT_PX

Index = NDArray[np.intp]

UNDECIDED = -1

# a background must be this near, and nearer than the second by this factor
BACKGROUND_GAP, BACKGROUND_MARGIN = 0.3, 0.7
# a pixel belongs to a body if it leaves the background's range by this much, and by this
# many times what the picture leaves it in the median
BODY_GAP, BODY_GAPS = 0.2, 1.5
BODY_REACH_PX = 9
BODY_AREA_PX = (60, 1100)
COLOUR_GAP, COLOUR_MARGIN = 0.5, 0.75
# this far inside a body there is neither outline nor blur, and at least so many pixels
CORE_REACH_PX, CORE_PX = 2, 12


class Sightings(NamedTuple):
    """What each of N frames shows; indices are `UNDECIDED` where it cannot be told.

    Attributes:
        background: [N] index into `BACKGROUNDS`.
        turned: [N, shapes] how well each of `SHAPES` fits at its best angle, 0 to 1.
        upright: [N, shapes] how well each fits upright.
        kind: [N] the best at any angle, index into `SHAPES`.
        colour: [N] index into `COLOURS`.
        present: [N] whether there is a subject; its pose means nothing otherwise.
        x: [N] of its centre, pixels.
        y: [N] of its centre, pixels.
        scale: [N] 1 is a subject's ordinary size.
        angle: [N] radians, clockwise; symmetric shapes look the same at several.
        sharpness: [N] mean steepness of the picture's edges, brightness per pixel.
    """

    background: Index
    turned: Array
    upright: Array
    kind: Index
    colour: Index
    present: Mask
    x: Array
    y: Array
    scale: Array
    angle: Array
    sharpness: Array


def look(frames: NDArray[np.uint8] | Array) -> Sightings:
    """Read every frame by itself.

    Args:
        frames: [N, H, W, 3], uint8 or floats in [-1, 1], of the world's own size.
    """
    if frames.shape[1:] != (WORLD_PX, WORLD_PX, 3):
        raise ValueError(
            f"frames are {frames.shape}; the oracle reads [N, {WORLD_PX}, {WORLD_PX}, 3]"
        )
    video = frames.astype(np.float32)
    if frames.dtype == np.uint8:
        video = video / np.float32(127.5) - np.float32(1)
    video = np.ascontiguousarray(video.transpose(0, 3, 1, 2))
    background, nearest, gap = _background(video)
    body = _subject(_excess(video, nearest), gap)
    area = body.sum(axis=(1, 2))
    there = (area >= BODY_AREA_PX[0]) & (area <= BODY_AREA_PX[1])

    count = len(video)
    colour, kind = (np.full(count, UNDECIDED) for _ in range(2))
    turned, upright = (np.zeros((count, len(SHAPES)), np.float32) for _ in range(2))
    x, y, scale, angle = (np.zeros(count, np.float32) for _ in range(4))
    if there.any():
        colour[there], paint = _colour(video[there], body[there])
        fit = fit_bodies(body[there], _darkness(video[there], paint))
        x[there], y[there], angle[there] = fit.x, fit.y, fit.angle
        scale[there], kind[there] = fit.radius / np.float32(SUBJECT_PX), fit.shape
        turned[there], upright[there] = fit.turned, fit.upright
    return Sightings(
        background=background,
        turned=turned,
        upright=upright,
        kind=kind,
        colour=colour,
        present=there,
        x=x,
        y=y,
        scale=scale,
        angle=angle,
        sharpness=sharpness(video),
    )


def sharpness(video: Array) -> Array:
    """Mean steepness of edges [N] of a video [N, 3, H, W], each pixel weighted by its own.

    Blurring an edge spreads it over more pixels and so lowers this mean, while edges that a
    body hides or adds hardly change it.
    """
    light = video.mean(axis=1) / 2
    across, down = np.diff(light, axis=2)[:, 1:], np.diff(light, axis=1)[:, :, 1:]
    steepness = np.hypot(across, down)
    return np.square(steepness).sum((1, 2)) / np.maximum(steepness.sum((1, 2)), 1e-6)


@lru_cache(maxsize=1)
def _backdrops() -> Array:
    """[backgrounds, 3, H, W]."""
    return np.stack([backdrop(name, WORLD_PX) for name in BACKGROUNDS])


@lru_cache(maxsize=1)
def _backdrop_ranges() -> tuple[Array, Array]:
    """What each backdrop's pixels and their neighbours span: a blurred edge stays within."""
    backdrops = _backdrops()
    low, high = local_range(backdrops.reshape(-1, WORLD_PX, WORLD_PX), 1)
    return low.reshape(backdrops.shape), high.reshape(backdrops.shape)


def _background(video: Array) -> tuple[Index, Index, Array]:
    """Backgrounds [N], decided and nearest, and their median distances [N]."""
    # every other row and column are enough for a median
    few, backdrops = video[..., ::2, ::2], _backdrops()[..., ::2, ::2]
    apart = [np.abs(few - own).mean(axis=1) for own in backdrops]
    gaps = np.median(np.stack(apart, axis=1), axis=(2, 3))
    nearest = gaps.argmin(axis=1)
    first, second = np.sort(gaps, axis=1)[:, :2].T
    clear = (first < BACKGROUND_GAP) & (first < BACKGROUND_MARGIN * second)
    return np.where(clear, nearest, UNDECIDED), nearest, first.astype(np.float32)


def _excess(video: Array, background: Index) -> Array:
    """How far each pixel [N, H, W] leaves its background, in the worst channel."""
    low, high = (bound[background] for bound in _backdrop_ranges())
    return np.maximum(low - video, video - high).max(axis=1)


def _subject(excess: Array, gap: Array) -> Mask:
    """Region [N, H, W] of the largest body outside the companion's corner; may be empty."""
    seen = outside_corner()
    differs = (excess > (BODY_GAP + BODY_GAPS * gap)[:, None, None]) & seen
    solid = fill_holes(differs, np.broadcast_to(~seen, differs.shape)) & seen
    density = local_sum(solid.astype(np.float32), BODY_REACH_PX) * solid
    peak = density.reshape(len(density), -1).argmax(axis=1)
    seeds = np.zeros_like(solid)
    seeds.reshape(len(solid), -1)[np.arange(len(solid)), peak] = True
    return flood(seeds, solid)


def _colour(video: Array, body: Mask) -> tuple[Index, Array]:
    """Colours [N] of bodies, and the median paint [N, 3] inside them."""
    side = 2 * CORE_REACH_PX + 1
    core = local_sum(body.astype(np.float32), CORE_REACH_PX) > side * side - 0.5
    paint = np.empty((len(video), 3), np.float32)
    for index, picture in enumerate(video):
        pixels = core[index] if core[index].sum() >= CORE_PX else body[index]
        paint[index] = np.median(picture[:, pixels], axis=1)
    palette = np.stack([rgb(PALETTE[name]) for name in COLOURS])
    gaps = np.abs(paint[:, None] - palette).mean(axis=2)
    first, second = np.sort(gaps, axis=1)[:, :2].T
    clear = (first < COLOUR_GAP) & (first < COLOUR_MARGIN * second)
    return np.where(clear, gaps.argmin(axis=1), UNDECIDED), paint


def _darkness(video: Array, paint: Array) -> Array:
    """How far each pixel [N, H, W] lies on the way from a body's paint to ink, 0 to 1."""
    way = rgb(INK) - paint
    gone = np.einsum("nchw,nc->nhw", video - paint[:, :, None, None], way)
    return np.clip(gone / np.square(way).sum(axis=1)[:, None, None], 0, 1)
