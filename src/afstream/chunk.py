"""What a stream hands out: decoded chunks, receipts of prompt changes, timings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Transition = Literal["switch", "cut"]


@dataclass(slots=True, kw_only=True)
class Receipt:
    """What became of a prompt change.

    Attributes:
        prompt: the new prompt.
        transition: `switch` turns the story, `cut` begins a fresh scene.
        blend_chunks: chunks over which the text goes from the old prompt to the new one.
        seed: the noise's seed from here on, None to keep it.
        note: the user's own words.
        chunk: index of the first chunk under the new prompt; None until it was applied.
            No frame of the old prompt comes after that chunk begins.
        superseded: another change fell on the same chunk and took its place.
        switch_ms: from the request (or, in a timeline, from its chunk's turn) to the first
            decoded frame under the new prompt.
    """

    prompt: str
    transition: Transition = "switch"
    blend_chunks: int = 0
    seed: int | None = None
    note: str = ""
    chunk: int | None = None
    superseded: bool = False
    switch_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTiming:
    """Milliseconds of one chunk's parts, and of all of it (the consumer's time excluded)."""

    switch_ms: float
    denoise_ms: float
    decode_ms: float
    context_ms: float
    total_ms: float

    @property
    def model_ms(self) -> float:
        """Time in the model: re-cache, denoise steps, decoder and context pass."""
        return self.switch_ms + self.denoise_ms + self.decode_ms + self.context_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One decoded chunk and what happened in it.

    Attributes:
        index: counted from the stream's start.
        segment: index of the prompt in force, counted from 0.
        prompt: the prompt in force.
        frames: uint8 [N, H, W, 3]; 9 at a scene's start, otherwise 12.
        latents: [1, c, C, h, w], clean.
        start_s: time of its first frame in the video.
        receipts: prompt changes that took effect with this chunk.
        timing: where its time went.
        warm_up: something was loaded, compiled or captured meanwhile that later chunks use.
    """

    index: int
    segment: int
    prompt: str
    frames: NDArray[np.uint8]
    latents: Tensor
    start_s: float
    receipts: tuple[Receipt, ...]
    timing: ChunkTiming
    warm_up: bool
