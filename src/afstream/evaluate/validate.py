"""How often the oracle is right on real clips of the world, clean and degraded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from afstream.evaluate.oracle import READABLE, attributes, read
from afstream.evaluate.regions import Array
from afstream.families.pocket.clips import random_clip
from afstream.families.pocket.vae import PocketVae
from afstream.families.pocket.world import render
from afstream.geometry import video_frames

# training draws its clips from [1, i] and other small seeds
VALIDATION_SEED = 776
# 97 frames, 6 s: whole latent frames, so that clips can also go through the codec
CLIP_FRAMES = video_frames(25)
SETTLE_FRAMES = 32
BLUR_PX, NOISE = 0.7, 0.03

Degrade = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How often the oracle is right.

    Attributes:
        clips: number of clips read.
        right: share of them in which it reads an attribute right.
    """

    clips: int
    right: Mapping[str, float]


def untouched(video: Array, rng: np.random.Generator) -> Array:
    """The clip as it was drawn."""
    del rng
    return video


def blurred_and_noisy(video: Array, rng: np.random.Generator) -> Array:
    """A mild Gaussian blur in space, and noise."""
    soft = blur(video, BLUR_PX)
    return soft + rng.normal(scale=NOISE, size=video.shape).astype(np.float32)


def through_codec(vae: PocketVae) -> Degrade:
    """What a codec makes of a clip: the best that a model in its latent space can give."""

    @torch.no_grad()
    def degrade(video: Array, rng: np.random.Generator) -> Array:
        del rng
        latents, _ = vae.encode(torch.from_numpy(video)[None])
        return vae.decode(latents)[0][0].numpy()

    return degrade


def blur(video: Array, sigma_px: float) -> Array:
    """Gaussian blur of a video [T, C, H, W] along height and width."""
    reach = int(np.ceil(4 * sigma_px))
    line = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma_px))
    kernel = (line / line.sum()).astype(np.float32)
    for axis in (2, 3):
        pad = [(0, 0)] * video.ndim
        pad[axis] = (reach, reach)
        around = np.lib.stride_tricks.sliding_window_view(
            np.pad(video, pad, mode="edge"), len(kernel), axis=axis
        )
        video = around @ kernel
    return video


def oracle_accuracy(
    *,
    clips: int = 200,
    degrade: Degrade = untouched,
    seed: int = VALIDATION_SEED,
    report: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Read real clips of 6 s and compare with what they were made to show.

    Every other clip holds a prompt switch and is read from 2 s behind it on.

    Args:
        clips: how many.
        degrade: what happens to each before it is read.
        seed: clip i depends on (seed, i) only.
        report: called with the number of clips read.
    """
    right: dict[str, int] = dict.fromkeys(READABLE, 0)
    for number in range(clips):
        rng = np.random.default_rng([seed, number])
        clip = random_clip(rng, num_switches=number % 2)
        last = clip.segments[-1]
        start = last.start + SETTLE_FRAMES if last.start else 0
        video = degrade(render(clip, CLIP_FRAMES, start=start), rng)
        shown = read(np.clip(video, -1, 1).transpose(0, 2, 3, 1)).shown
        for name, value in attributes(last.scene).items():
            right[name] += shown[name] == value
        report(number + 1)
    return Accuracy(clips=clips, right={name: count / clips for name, count in right.items()})
