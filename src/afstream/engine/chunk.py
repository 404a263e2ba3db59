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
        chunk: index of the first chunk under the new prompt; None until that chunk is launched.
            No frame of the old prompt comes after that chunk begins.
        superseded: another change fell on the same chunk and took its place.
        switch_ms: from the request (or, in a timeline, from its chunk's launch) until the first
            frames under the new prompt are handed out; None before that.
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
    """Milliseconds of one chunk.

    On a GPU a chunk is decoded beside its own context pass and, in a stream that runs ahead,
    beside the next chunk's denoising. Each part is timed on the stream it runs on, so parts that
    run at the same time slow each other down, and their sum is more than the time they took.

    Attributes:
        switch_ms: bringing a new prompt into force, re-cache included.
        denoise_ms: its denoise steps.
        decode_ms: from clean latents to pictures.
        context_ms: its context pass.
        model_ms: in which the model worked on it and not on the chunk before: until its frames
            are on the host and its context pass is done. Over a stream these add up to the time
            in which the model worked, whatever ran beside whatever.
        total_ms: in which the consumer waited for it. With the consumer's own time these add up
            to the time that the stream took. Where the stream runs ahead, most of a chunk's work
            is done before it is asked for, and the next chunk is launched while it is waited for.
    """

    switch_ms: float
    denoise_ms: float
    decode_ms: float
    context_ms: float
    model_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One decoded chunk and what happened in it.

    Attributes:
        index: counted from the stream's start.
        segment: index of the prompt in force, counted from 0.
        prompt: the prompt in force.
        frames: uint8 [N, H, W, 3]; 9 at a scene's start, otherwise 12.
        latents: [1, c, C, h, w], clean; on a GPU, reading them waits for all that was launched.
        start_s: time of its first frame in the video.
        receipts: prompt changes that took effect with this chunk.
        timing: where its time went.
        warm_up: something that later chunks use was loaded, compiled or captured for it, or while
            it was waited for.
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
