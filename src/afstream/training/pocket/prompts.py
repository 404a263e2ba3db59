"""Pairs of prompts about the pocket world: text is all that distribution matching needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from afstream.families.pocket.captions import caption
from afstream.families.pocket.clips import follow_up, random_scene
from afstream.families.pocket.text import PocketText

# of the second prompts, those that leave out some of what stays as it was
PARTIAL_SHARE = 0.5


def prompt_pair(seed: int, number: int) -> tuple[str, str]:
    """A prompt, and one that the story turns to; both depend on seed and number alone."""
    rng = np.random.default_rng([seed, number])
    scene = random_scene(rng)
    first = caption(scene, rng)
    return first, follow_up(scene, rng, partial_share=PARTIAL_SHARE)[1]


class PocketPrompts:
    """Pairs as embeddings; see `afstream.training.dmd.trainer.Prompts`.

    Args:
        text: the encoder that student and teacher share.
        seed: of the pairs.
    """

    def __init__(self, text: PocketText, seed: int) -> None:
        self._text = text
        self._seed = seed

    def pair(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, text_dim] of the first and the second prompts."""
        pairs = [prompt_pair(self._seed, number) for number in numbers]
        first, second = (self._text.encode(prompts) for prompts in zip(*pairs, strict=True))
        return first, second

    def unconditional(self, count: int) -> Tensor:
        """Zeros [B, T, text_dim]: what the teacher learned to read as no prompt."""
        shape = (count, self._text.text_len, self._text.position.shape[1])
        return torch.zeros(shape, device=self._text.position.device)
