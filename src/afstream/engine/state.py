"""All that changes while a stream runs, in one place; nothing of it grows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from afstream.engine.cuda_graph import Graphs
from afstream.engine.decode import PendingChunk
from afstream.engine.stopwatch import Event
from afstream.kvcache.cache import KVCache
from afstream.model.dit import TextContext


@dataclass(slots=True, kw_only=True)
class RolloutState:
    """One scene's KV cache and recent clean latents.

    Attributes:
        cache: keys and values of finished chunks, sink and junctions.
        shape: of one chunk of latents, (B, c, C, h, w).
        recent: the last finished chunks, oldest first, kept for re-caches.
        text: the prompt in force.
        graphs: captured model calls; None where every call is launched anew.
        frame: the next chunk's first latent frame, counted from the scene's start.
    """

    cache: KVCache
    shape: tuple[int, ...]
    recent: deque[Tensor]
    text: TextContext
    graphs: Graphs | None = None
    frame: int = 0

    def fork(self) -> RolloutState:
        """A state of its own that goes on from here."""
        return replace(
            self,
            cache=self.cache.fork(),
            recent=self.recent.copy(),
            text=tuple(keys.clone() for keys in self.text) if self.graphs else self.text,
            graphs=self.graphs and Graphs(),
        )


@dataclass(slots=True, kw_only=True)
class Blend:
    """A text on its way from one prompt's embeddings to another's."""

    start: Tensor
    goal: Tensor
    chunks: int
    done: int = 0


@dataclass(slots=True, kw_only=True)
class StreamState:
    """A stream as the next chunk to be submitted will find it.

    Attributes:
        rollout: memory, recent latents and position in the scene; None before the start.
        decoder: the decoder's own state, None at a scene's start.
        seed: of the noise.
        chunk: index of the next chunk to be submitted.
        segment: index of the prompt in force, -1 before the first.
        video_frame: video frames before that chunk.
        prompt: the prompt in force.
        embeds: its embeddings [1, T, text_dim].
        blend: set while one prompt turns into another.
        pending: chunks that were submitted and not collected yet, two at most.
        done: when the chunk submitted last is done; None before the first.
    """

    seed: int
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

    def fork(self) -> StreamState:
        """A state of its own that goes on from here; chunks in pending belong to both."""
        return replace(
            self,
            rollout=self.rollout and self.rollout.fork(),
            blend=self.blend and replace(self.blend),
            pending=self.pending.copy(),
        )
