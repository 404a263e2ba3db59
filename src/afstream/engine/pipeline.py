"""The loop of every stream: chunks are submitted, then collected in order.

Submitting applies prompt changes, denoises, starts decoding and runs the context pass, and on a GPU
waits for none of these. Collecting waits for the frames. A pipeline that runs ahead submits each
chunk before it collects the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from threading import Lock, RLock

import torch

from afstream.engine.chunk import Chunk
from afstream.engine.decode import ChunkDecoder, PendingChunk
from afstream.engine.rollout import Rollout
from afstream.engine.scheduler import PendingPrompt, PromptScheduler
from afstream.engine.state import RolloutState, StreamState
from afstream.engine.stopwatch import Stopwatch
from afstream.errors import ConfigError
from afstream.timeline import Plan
from afstream_kernels import on_device


class ChunkPipeline:
    """Submits and collects the chunks of one stream, and holds its state.

    Args:
        rollout: denoises chunks and writes their context.
        prompts: applies prompt changes.
        decoder: decodes chunks.
        seed: seed of the noise.
        ahead: submit each chunk, from the second one on, before the one before it is collected.

    Attributes:
        state: all that changes while the stream runs.
    """

    def __init__(
        self,
        rollout: Rollout,
        prompts: PromptScheduler,
        decoder: ChunkDecoder,
        *,
        seed: int,
        ahead: bool,
    ) -> None:
        self.rollout = rollout
        self.prompts = prompts
        self.decoder = decoder
        self.ahead = ahead
        self.state = StreamState.begin(seed)
        self.closed = False
        # held by the iterator that is taking the chunks
        self._running = Lock()
        # held while the state changes; it may be saved and forked in between
        self.changing = RLock()

    def fork(self, prompts: PromptScheduler) -> ChunkPipeline:
        """A pipeline that goes on from here; weights and the decode stream are shared.

        Args:
            prompts: takes the fork's own prompt changes.
        """
        other = ChunkPipeline(
            self.rollout, prompts, self.decoder, seed=self.state.seed, ahead=self.ahead
        )
        with torch.inference_mode(), self.changing:
            other.state = self.state.fork()
        return other

    def close(self) -> None:
        """Drop all state; a running iterator ends."""
        self.closed = True
        self.prompts.spare = None
        self.state = StreamState.begin(self.state.seed)

    def play(self, plan: Plan, from_chunk: int) -> Generator[Chunk, None, None]:
        """Submit and collect the chunks of a plan; see `Stream.play`."""
        changes = self.prompts.planned(plan)
        state, first = self.state, 0
        if from_chunk:
            if from_chunk != state.position or from_chunk > plan.num_chunks:
                raise ConfigError(
                    f"the timeline cannot be played from chunk {from_chunk!r}: it has"
                    f" {plan.num_chunks} chunks, and the stream stands at chunk {state.position};"
                    " load or rewind the stream, or play from there"
                )
            # one may be submitted already, and comes first
            first = state.chunk
        left = iter(range(first, plan.num_chunks))

        def next_changes() -> Sequence[PendingPrompt] | None:
            chunk = next(left, None)
            return None if chunk is None else changes.get(chunk, ())

        return self.run(next_changes)

    def run(
        self, planned: Callable[[], Sequence[PendingPrompt] | None]
    ) -> Generator[Chunk, None, None]:
        """Submit and collect chunks.

        Args:
            planned: prompt changes for the next chunk; None when there shall be no more chunks.

        Raises:
            ConfigError: another iterator is taking the chunks, or there is no prompt yet.
        """
        with self.alone():
            more = True
            while not self.closed:
                began, warm_up = time.perf_counter(), False
                pending = self.state.pending
                while more and len(pending) < self._depth:
                    changes = planned()
                    if changes is None:
                        more = False
                    else:
                        with self.changing:
                            pending.append(self.submit([*changes, *self.prompts.waiting()]))
                        warm_up |= pending[-1].warm_up
                if not pending:
                    return
                # removed after it is collected, so that an interrupted wait loses nothing
                chunk = self.decoder.collect(pending[0], began=began, warm_up=warm_up)
                with self.changing:
                    pending.popleft()
                yield chunk

    @contextmanager
    def alone(self) -> Generator[None, None, None]:
        """Keep iterators away from the stream.

        Raises:
            ConfigError: one is taking the chunks already.
        """
        if not self._running.acquire(blocking=False):
            raise ConfigError(
                "another iterator or thread is taking this stream's chunks; let it come to its"
                " end or close() it first, or go on with a fork() of the stream"
            )
        try:
            yield
        finally:
            self._running.release()

    @property
    def next_s(self) -> float:
        """Time in the video at which the next chunk to be submitted begins."""
        return self.state.video_frame / self.prompts.clock.fps

    @property
    def _depth(self) -> int:
        """Number of chunks to keep pending; the stream's first one is collected at once."""
        pending = self.state.pending
        return 2 if self.ahead and pending and pending[0].index > 0 else 1

    def submit(self, changes: Sequence[PendingPrompt]) -> PendingChunk:
        """Submit the next chunk; on a GPU its work may not have begun when this returns.

        Args:
            changes: prompt changes that take effect with it.

        Raises:
            ConfigError: there is no prompt yet.
        """
        with torch.inference_mode(), on_device(self.rollout.model.device):
            return self._submit(changes)

    def _submit(self, changes: Sequence[PendingPrompt]) -> PendingChunk:
        began = time.perf_counter()
        state, rollout, decoding = self.state, self.rollout, self.decoder.stream
        watch = Stopwatch(decoding.event)
        with watch.lap("switch"):
            self.prompts.apply(changes, state, rollout)
        scene = state.rollout
        if scene is None:
            raise ConfigError("the stream has no prompt yet; call cue(prompt) first")
        new_before = scene.graphs.num_new if scene.graphs else 0
        failure_before = scene.graphs and scene.graphs.failure
        with watch.lap("denoise"):
            noise = rollout.noise(scene, seed=state.seed, chunk=state.chunk)
            clean = rollout.denoise(scene, noise)
        decoded = self.decoder.submit(clean, state.decoder, watch)
        with watch.lap("context"):
            rollout.commit(scene, clean)
        # only now: a chunk that is interrupted is submitted again, from the decoder's old state
        state.decoder = decoded.state
        before, state.done = state.done, decoding.finish()
        submitted = PendingChunk(
            index=state.chunk,
            segment=state.segment,
            prompt=state.prompt,
            latents=clean,
            start_s=self.next_s,
            receipts=tuple(change.receipt for change in changes),
            began=began,
            frames=decoded.frames,
            is_finite=decoded.is_finite,
            ready=decoded.ready,
            watch=watch,
            before=before,
            done=state.done,
            warm_up=self._warms_up(scene, new_before),
            notes=_notes(scene, failure_before),
        )
        state.chunk += 1
        state.video_frame += len(decoded.frames)
        return submitted

    def _warms_up(self, scene: RolloutState, new_before: int) -> bool:
        """Whether the chunk just submitted prepared something that later ones reuse."""
        if scene.graphs is not None and scene.graphs.num_new > new_before:
            return True
        # compiled layers see new lengths until the window is full
        lengths = self.rollout.policy.lengths
        return self.state.chunk < (lengths.window_chunks if self.rollout.model.is_compiled else 1)


def _notes(scene: RolloutState, failure_before: str | None) -> tuple[str, ...]:
    """What a chunk that was just submitted changed, in sentences."""
    failure = scene.graphs and scene.graphs.failure
    if not failure or failure_before:
        return ()
    return (
        f"the GPU's work could not be captured as CUDA graphs ({failure}), so each kernel is"
        " launched on its own from here on; frames are the same",
    )
