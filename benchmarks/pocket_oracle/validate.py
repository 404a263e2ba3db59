"""How often the oracle is right on clips rendered by the world itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afstream.families.pocket.clips import random_clip
from afstream.families.pocket.facts import FORMAT
from afstream.families.pocket.world import render
from pocket_oracle.oracle import READABLE, attributes, read
from pocket_oracle.regions import Array

# training draws its clips from [1, i] and other small seeds
VALIDATION_SEED = 776
# 97 frames, 6 s: whole latent frames
CLIP_FRAMES = FORMAT.video_frames(25)
SETTLE_FRAMES = 32

Degrade = Callable[[Array, np.random.Generator], Array]


def oracle_accuracy(
    *, clips: int = 200, degrade: Degrade | None = None, seed: int = VALIDATION_SEED
) -> dict[str, float]:
    """Read rendered clips of 6 s and compare with the scenes that they were rendered from.

    Every second clip has a prompt switch and is read from 2 s after it.

    Args:
        clips: how many.
        degrade: applied to each clip [T, C, H, W] before it is read.
        seed: clip i depends on (seed, i) only.

    Returns:
        For each of `READABLE` the share of clips in which it is read right.
    """
    right: dict[str, int] = dict.fromkeys(READABLE, 0)
    for number in range(clips):
        rng = np.random.default_rng([seed, number])
        clip = random_clip(rng, num_switches=number % 2)
        last = clip.segments[-1]
        start = last.start + SETTLE_FRAMES if last.start else 0
        video = render(clip, CLIP_FRAMES, start=start)
        if degrade is not None:
            video = degrade(video, rng)
        shown = read(np.clip(video, -1, 1).transpose(0, 2, 3, 1)).shown
        for name, value in attributes(last.scene).items():
            right[name] += shown[name] == value
    return {name: count / clips for name, count in right.items()}
