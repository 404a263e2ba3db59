"""All state of a running stream; its size stays constant but for the list of prompt changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from afstream.engine.cuda_graph import Graphs
from afstream.engine.decode import PendingChunk
from afstream.engine.stopwatch import Event
from afstream.kvcache.cache import KVCache
from afstream.model.dit import TextContext
from afstream.timeline import Cue


@dataclass(slots=True, kw_only=True)
class RolloutState:
    """One scene's KV cache and recent clean latents.

    Attributes:
        cache: keys and values of finished chunks, sink and junctions.
        shape: of one chunk of latents, (B, c, C, h, w).
        recent: the last finished chunks, oldest first, kept for re-caches.
        text: the current prompt.
        graphs: CUDA graphs of the model calls; None where calls are not captured.
        frame: the next chunk's first latent frame, counted from the scene's start.
    """

    cache: KVCache
    shape: tuple[int, ...]
    recent: deque[Tensor]
    text: TextContext
    graphs: Graphs | None = None
    frame: int = 0

    def fork(self) -> RolloutState:
        """An independent copy."""
        return replace(
            self,
            cache=self.cache.fork(),
            recent=self.recent.copy(),
            text=tuple(keys.clone() for keys in self.text) if self.graphs else self.text,
            graphs=self.graphs and self.graphs.fork(),
        )


@dataclass(slots=True, kw_only=True)
class Blend:
    """A blend from one prompt's embeddings to another's."""

    start: Tensor
    goal: Tensor
    chunks: int
    done: int = 0


class Change(NamedTuple):
    """A prompt change that took effect.

    Attributes:
        chunk: the first chunk under it.
        cue: the request; its seed is the one in effect from that chunk on, whoever set it.
    """

    chunk: int
    cue: Cue


# whether a state before a chunk is wanted, by the prompt changes that led to it
Fits = Callable[[int, Sequence[Change]], bool]


@dataclass(slots=True, kw_only=True)
class StreamState:
    """State of a stream before its next chunk is submitted.

    Attributes:
        rollout: memory, recent latents and position in the scene; None before the start.
        decoder: the decoder's own state, None at a scene's start.
        seed: seed of the noise.
        first_seed: the seed before the first prompt change.
        history: all prompt changes that took effect, oldest first.
        chunk: index of the next chunk to be submitted.
        segment: index of the current prompt, -1 before the first.
        video_frame: video frames before that chunk.
        prompt: the current prompt.
        embeds: its embeddings [1, T, text_dim].
        blend: set while one prompt turns into another.
        pending: chunks that were submitted and not collected yet, two at most.
        done: reached when the chunk submitted last is done; None before the first.
    """

    seed: int
    first_seed: int
    history: list[Change] = field(default_factory=list[Change], repr=False)
    rollout: RolloutState | None = None
    decoder: Any = None
    chunk: int = 0
    segment: int = -1
    video_frame: int = 0
    prompt: str = ""
    embeds: Tensor | None = None
    blend: Blend | None = field(default=None, repr=False)
    pending: deque[PendingChunk] = field(default_factory=deque[PendingChunk])
    done: Event | None = None

    @classmethod
    def begin(cls, seed: int) -> StreamState:
        """The state before the first prompt."""
        return cls(seed=seed, first_seed=seed)

    @property
    def position(self) -> int:
        """Index of the first chunk that was not collected yet."""
        return self.chunk - len(self.pending)

    def fork(self) -> StreamState:
        """An independent copy; pending chunks belong to both."""
        return replace(
            self,
            rollout=self.rollout and self.rollout.fork(),
            history=self.history.copy(),
            blend=self.blend and replace(self.blend),
            pending=self.pending.copy(),
        )
