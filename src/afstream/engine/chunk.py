"""What a stream yields: decoded chunks, receipts of prompt changes, timings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from afstream.timeline.cue import Cue, Transition

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Receipt:
    """A prompt change: the cue that requested it, and when it took effect.

    Attributes:
        cue: the request.
        requested_s: the time in the video for which it was requested, seconds.
        blend_chunks: chunks over which the text moves from the old prompt to the new one.
        asked_at: when a live cue was given, in seconds of the host's clock; None in a timeline.
        chunk: index of the first chunk under the new prompt; None until that chunk is submitted.
            No frame of the old prompt comes after that chunk begins.
        superseded: whether a later change fell on the same chunk and replaced it.
        switch_ms: milliseconds from the request (or, in a timeline, from its chunk's submission)
            until the first frames under the new prompt are yielded; None before that.
    """

    cue: Cue
    requested_s: float = 0.0
    blend_chunks: int = 0
    asked_at: float | None = field(default=None, repr=False)
    chunk: int | None = None
    superseded: bool = False
    switch_ms: float | None = None

    @property
    def prompt(self) -> str:
        """The new prompt."""
        return self.cue.prompt

    @property
    def transition(self) -> Transition:
        """`switch` keeps the scene, `cut` begins a fresh one."""
        return self.cue.transition

    @property
    def seed(self) -> int | None:
        """Seed of the noise from here on, None to keep the one before."""
        return self.cue.seed

    @property
    def note(self) -> str:
        """The note of the cue."""
        return self.cue.note

    def as_data(self) -> dict[str, object]:
        """The receipt as plain values."""
        return {
            "prompt": self.prompt,
            "transition": self.transition,
            "blend_chunks": self.blend_chunks,
            "seed": self.seed,
            "note": self.note,
            "chunk": self.chunk,
            "superseded": self.superseded,
            "switch_ms": self.switch_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTiming:
    """Milliseconds of one chunk.

    On a GPU a chunk is decoded while its own context pass runs and, in a stream that runs ahead,
    while the next chunk is denoised. Each part is timed on its own CUDA stream; parts that overlap
    slow each other down, and sum to more than the time they took together.

    Attributes:
        switch_ms: applying a new prompt, re-cache included.
        denoise_ms: its denoise steps.
        decode_ms: decoding clean latents to pictures.
        context_ms: its context pass.
        model_ms: from the end of the chunk before until its frames are on the host and its context
            pass is done. Over a stream it sums to total model time, overlaps counted once.
        total_ms: the time that the consumer waited for the chunk. With the consumer's own time it
            sums to the time that the stream took. Where the stream runs ahead, most of a chunk's
            work is done before it is asked for, and the next chunk is submitted during the wait.
    """

    switch_ms: float
    denoise_ms: float
    decode_ms: float
    context_ms: float
    model_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Chunk:
    """One decoded chunk and what happened in it.

    Attributes:
        index: counted from the stream's start.
        segment: index of the current prompt, counted from 0.
        prompt: the current prompt.
        frames: uint8 [N, H, W, 3]; fewer at a scene's start than later.
        latents: [1, c, C, h, w], clean; on a GPU, reading them waits for all that was submitted.
        start_s: time of its first frame in the video.
        receipts: prompt changes that took effect with this chunk.
        timed: gives `timing`.
        warm_up: whether something that later chunks reuse was loaded, compiled or captured for it,
            or during the wait for it.
        notes: what became different with this chunk and should be known, in sentences.
    """

    index: int
    segment: int
    prompt: str
    frames: NDArray[np.uint8]
    latents: Tensor
    start_s: float
    receipts: tuple[Receipt, ...]
    timed: Callable[[], ChunkTiming]
    warm_up: bool
    notes: tuple[str, ...] = ()

    @property
    def timing(self) -> ChunkTiming:
        """Milliseconds of each part; on a GPU, reading them waits for the chunk's context pass."""
        return self.timed()

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        return (
            f"<Chunk {self.index} at {self.start_s:g} s: {count} frames of {width}x{height},"
            f" segment {self.segment}, {self.prompt!r}>"
        )
