"""The pocket world's pictures: clips in, video frames out.

Video is float32 [T, 3, H, W] in [-1, 1], 16 frames a second, the same layout that the
codec takes and gives.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afstream.families.pocket.backdrops import backdrop, rgb
from afstream.families.pocket.motion import ANGLE, NUM_POSE_VALUES, SCALE, SQUASH, X, Y, ease, poses
from afstream.families.pocket.scene import WORLD_PX, Clip, Subject
from afstream.families.pocket.shapes import SHAPE_DISTANCE

Array = NDArray[np.floating]

NUM_FRAMES = 81
PALETTE = {
    "red": (236, 48, 56),
    "yellow": (255, 208, 40),
    "green": (44, 190, 78),
    "blue": (44, 108, 242),
    "purple": (164, 72, 222),
    "white": (252, 252, 252),
}
INK = (26, 18, 42)

SUBJECT_PX = 11.0
COMPANION_PX = 7.0
OUTLINE_PX = 1.5
COMPANION_HOME = (20.0, 20.0)
COMPANION_AWAY_PX = 22.0
# a body reaches this many radii from its centre: star tips, a swollen and squashed body
REACH = 1.75

MORPH_FRAMES = 8
COLOUR_FRAMES = 6
FADE_FRAMES = 8
ENTRY_FRAMES = 12

EYE_X, EYE_Y, EYE_RADIUS = 0.3, -0.04, 0.135


class _Look(NamedTuple):
    """How a body looks from frame `start` on: it turns from `before` into `now`."""

    start: int
    before: Subject
    now: Subject


def render(
    clip: Clip, num_frames: int = NUM_FRAMES, *, start: int = 0, size: int = WORLD_PX
) -> Array:
    """Video [T, 3, size, size] of a clip's frames `start` to `start + num_frames`."""
    stop = start + num_frames
    video = _backgrounds(clip, start, stop, size)

    looks = _looks([(segment.start, segment.scene.subject) for segment in clip.segments])
    _draw(video, poses(clip, stop)[start:], looks, start, SUBJECT_PX)

    companions = [(s.start, s.scene.companion) for s in clip.segments]
    shown = next((companion for _, companion in companions if companion), None)
    if shown:
        filled: list[tuple[int, Subject]] = []
        for begin, companion in companions:
            shown = companion or shown
            filled.append((begin, shown))
        _draw(video, _companion_poses(clip, start, stop), _looks(filled), start, COMPANION_PX)
    return video


def _share(start: int, frames: int, times: Array) -> Array:
    """Progress at `times` [T] of a change that begins with frame `start`."""
    return ease((times - start + 1) / np.float32(frames))


def _backgrounds(clip: Clip, start: int, stop: int, size: int) -> Array:
    video = np.empty((stop - start, 3, size, size), np.float32)
    last = clip.segments[0].scene.background
    for segment in clip.segments:
        name = segment.scene.background
        first = max(segment.start - start, 0)
        if segment.start >= stop:
            break
        video[first:] = backdrop(name, size)
        fading = slice(first, max(segment.start + FADE_FRAMES - start, first))
        if name != last and fading.stop > fading.start:
            times = np.arange(start, stop, dtype=np.float32)[fading]
            share = _share(segment.start, FADE_FRAMES, times)[:, None, None, None]
            video[fading] = backdrop(last, size) * (1 - share) + backdrop(name, size) * share
        last = name
    return video


def _looks(subjects: list[tuple[int, Subject]]) -> list[_Look]:
    looks: list[_Look] = []
    for start, now in subjects:
        if not looks or looks[-1].now != now:
            looks.append(_Look(start, looks[-1].now if looks else now, now))
    return looks


def _companion_poses(clip: Clip, start: int, stop: int) -> Array:
    """Poses [T, 5] of the companion: in its corner, or sliding in or out."""
    times = np.arange(start, stop, dtype=np.float32)
    present = [segment.scene.companion is not None for segment in clip.segments]
    there = np.full(len(times), float(present[0]), np.float32)
    for segment, (was_there, is_there) in zip(clip.segments[1:], pairwise(present), strict=True):
        if is_there != was_there:
            share = _share(segment.start, ENTRY_FRAMES, times)
            there += share if is_there else -share
    found = np.ones((len(times), NUM_POSE_VALUES), np.float32)
    found[:, X] = COMPANION_HOME[0] + COMPANION_AWAY_PX * (1 - there)
    found[:, Y] = COMPANION_HOME[1]
    found[:, ANGLE] = 0
    return found


def _draw(video: Array, pose: Array, looks: list[_Look], start: int, radius_px: float) -> None:
    """Draw one body into `video` [T, 3, H, W], at poses [T, 5]."""
    frames, _, height, width = video.shape
    unit = width / WORLD_PX
    radius = pose[:, SCALE] * np.float32(radius_px * unit)
    half = int(np.ceil(radius.max() * REACH)) + 1
    centre_x = pose[:, X] * np.float32(unit) + np.float32(width / 2)
    centre_y = pose[:, Y] * np.float32(unit) + np.float32(height / 2)
    left, top = np.floor(centre_x).astype(int) - half, np.floor(centre_y).astype(int) - half

    # screen coordinates [T, 1, P] and [T, P, 1], in radii, then the body's own
    line = np.arange(2 * half + 1, dtype=np.float32) + np.float32(0.5)
    across = ((line + (left - centre_x)[:, None].astype(np.float32)) / radius[:, None])[:, None, :]
    down = ((line + (top - centre_y)[:, None].astype(np.float32)) / radius[:, None])[:, :, None]
    squash = pose[:, SQUASH, None, None]
    cos, sin = np.cos(pose[:, ANGLE])[:, None, None], np.sin(pose[:, ANGLE])[:, None, None]
    x = across / squash * cos + down * squash * sin
    y = down * squash * cos - across / squash * sin

    distance, colour = _body(x, y, looks, start)
    thick = radius[:, None, None]
    edge = distance * thick
    ink = np.float32(OUTLINE_PX * unit)
    eyes = (
        np.hypot(np.abs(x) - np.float32(EYE_X), y - np.float32(EYE_Y)) - np.float32(EYE_RADIUS)
    ) * thick
    cover = np.clip(np.float32(0.5) - edge, 0, 1)
    fill = np.clip(np.float32(0.5) - edge - ink, 0, 1) * np.clip(np.float32(0.5) + eyes, 0, 1)
    # lit from the upper left, whichever way the body is turned
    light = np.float32(-0.12) * across + np.float32(-0.2) * down
    paint = np.clip(colour[:, :, None, None] + light[:, None], -1, 1)
    dark = rgb(INK)[None, :, None, None]
    paint = dark + (paint - dark) * fill[:, None]

    for frame in range(frames):
        into, out = _overlap(top[frame], len(line), height), _overlap(left[frame], len(line), width)
        if into is None or out is None:
            continue
        area = video[frame, :, into[0], out[0]]
        area += (paint[frame, :, into[1], out[1]] - area) * cover[frame, into[1], out[1]]


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice] | None:
    """Where a patch at `start` meets a line of `limit` pixels: there, and in the patch."""
    first, last = max(start, 0), min(start + length, limit)
    return (slice(first, last), slice(first - start, last - start)) if first < last else None


def _body(x: Array, y: Array, looks: list[_Look], start: int) -> tuple[Array, Array]:
    """Distances [T, P, P] and colours [T, 3] of a body that changes its looks."""
    frames = len(x)
    distance = np.empty_like(x)
    colour = np.empty((frames, 3), np.float32)
    for index, look in enumerate(looks):
        stop = looks[index + 1].start - start if index + 1 < len(looks) else frames
        now = slice(max(look.start - start, 0), max(min(stop, frames), 0))
        if now.start >= now.stop:
            continue
        times = np.arange(now.start, now.stop, dtype=np.float32) + start
        tint = _share(look.start, COLOUR_FRAMES, times)[:, None]
        if look.before == look.now:
            tint[:] = 1
        colour[now] = (
            rgb(PALETTE[look.before.colour]) * (1 - tint) + rgb(PALETTE[look.now.colour]) * tint
        )
        distance[now] = SHAPE_DISTANCE[look.now.shape](x[now], y[now])
        morph = slice(now.start, min(look.start + MORPH_FRAMES - start, now.stop))
        if look.before.shape != look.now.shape and morph.start < morph.stop:
            share = _share(look.start, MORPH_FRAMES, times[: morph.stop - morph.start])[
                :, None, None
            ]
            former = SHAPE_DISTANCE[look.before.shape](x[morph], y[morph])
            distance[morph] = former + (distance[morph] - former) * share
    return distance, colour
