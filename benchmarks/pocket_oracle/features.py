"""Features of single frames of the pocket world, found by comparing them with the world itself."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afstream.families.pocket.backdrops import backdrop, rgb
from afstream.families.pocket.scene import BACKGROUNDS, COLOURS, SHAPES, WORLD_PX
from afstream.families.pocket.world import INK, PALETTE, SUBJECT_PX
from pocket_oracle.regions import Array, Mask, fill_holes, flood, local_range, local_sum
from pocket_oracle.shape_fit import fit_shapes, visible_mask

Index = NDArray[np.intp]

UNDECIDED = -1

# largest distance to a background, absolute and as a share of that to the second nearest
BACKGROUND_GAP, BACKGROUND_MARGIN = 0.3, 0.7
# a pixel belongs to a subject if it leaves the background's range by this much, and by this
# many times the frame's median distance to its background
SUBJECT_GAP, SUBJECT_GAPS = 0.2, 1.5
SUBJECT_REACH_PX = 9
SUBJECT_AREA_PX = (60, 1100)
COLOUR_GAP, COLOUR_MARGIN = 0.5, 0.75
# pixels this far inside a subject are free of outline and blur; at least so many are needed
CORE_REACH_PX, CORE_PX = 2, 12


class FrameFeatures(NamedTuple):
    """Features of N frames; indices are `UNDECIDED` where nothing fits well enough.

    Attributes:
        background: [N] index into `BACKGROUNDS`.
        rotated: [N, shapes] overlap with each of `SHAPES` at its best angle, 0 to 1.
        upright: [N, shapes] overlap with each upright.
        shape: [N] index into `SHAPES` of the best at any angle.
        colour: [N] index into `COLOURS`.
        present: [N] whether there is a subject; without one the pose below is 0.
        x: [N] horizontal centre, pixels.
        y: [N] vertical centre, pixels.
        scale: [N] size relative to a subject's ordinary one.
        angle: [N] radians, clockwise; symmetric shapes look the same at several.
        sharpness: [N] mean steepness of the picture's edges, brightness per pixel.
    """

    background: Index
    rotated: Array
    upright: Array
    shape: Index
    colour: Index
    present: Mask
    x: Array
    y: Array
    scale: Array
    angle: Array
    sharpness: Array


def extract_features(frames: NDArray[np.uint8] | Array) -> FrameFeatures:
    """Features of each frame by itself.

    Args:
        frames: [N, H, W, 3], uint8 or floats in [-1, 1], of the world's own size.

    Raises:
        ValueError: the frames have another size.
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
    present = (area >= SUBJECT_AREA_PX[0]) & (area <= SUBJECT_AREA_PX[1])

    count = len(video)
    colour, shape = (np.full(count, UNDECIDED) for _ in range(2))
    rotated, upright = (np.zeros((count, len(SHAPES)), np.float32) for _ in range(2))
    x, y, scale, angle = (np.zeros(count, np.float32) for _ in range(4))
    if present.any():
        colour[present], paint = _colour(video[present], body[present])
        fit = fit_shapes(body[present], _darkness(video[present], paint))
        x[present], y[present], angle[present] = fit.x, fit.y, fit.angle
        scale[present], shape[present] = fit.radius / np.float32(SUBJECT_PX), fit.shape
        rotated[present], upright[present] = fit.rotated, fit.upright
    return FrameFeatures(
        background=background,
        rotated=rotated,
        upright=upright,
        shape=shape,
        colour=colour,
        present=present,
        x=x,
        y=y,
        scale=scale,
        angle=angle,
        sharpness=sharpness(video),
    )


def sharpness(video: Array) -> Array:
    """Mean steepness of edges [N] of a video [N, 3, H, W], each pixel weighted by its own.

    Blurring an edge spreads it over more pixels and so lowers this mean, while edges that a
    subject hides or adds hardly change it.
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
    """Smallest and largest value around each backdrop pixel: a blurred edge stays within."""
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
    """Distance [N, H, W] of each pixel from its background's range, in the worst channel."""
    low, high = (bound[background] for bound in _backdrop_ranges())
    return np.maximum(low - video, video - high).max(axis=1)


def _subject(excess: Array, gap: Array) -> Mask:
    """Mask [N, H, W] of the largest region outside the companion's corner; may be empty."""
    seen = visible_mask()
    differs = (excess > (SUBJECT_GAP + SUBJECT_GAPS * gap)[:, None, None]) & seen
    solid = fill_holes(differs, np.broadcast_to(~seen, differs.shape)) & seen
    density = local_sum(solid.astype(np.float32), SUBJECT_REACH_PX) * solid
    peak = density.reshape(len(density), -1).argmax(axis=1)
    seeds = np.zeros_like(solid)
    seeds.reshape(len(solid), -1)[np.arange(len(solid)), peak] = True
    return flood(seeds, solid)


def _colour(video: Array, body: Mask) -> tuple[Index, Array]:
    """Colours [N] of subjects, and the median paint [N, 3] inside them."""
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
    """Position [N, H, W] of each pixel between a subject's paint (0) and ink (1)."""
    way = rgb(INK) - paint
    gone = np.einsum("nchw,nc->nhw", video - paint[:, :, None, None], way)
    return np.clip(gone / np.square(way).sum(axis=1)[:, None, None], 0, 1)
