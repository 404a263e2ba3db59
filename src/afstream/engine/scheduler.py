"""Prompt changes: requested from any thread, applied when a chunk is submitted."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from afstream.engine.chunk import Receipt
from afstream.engine.rollout import Rollout
from afstream.engine.state import Blend, Change, RolloutState, StreamState
from afstream.errors import PromptError, TimelineError
from afstream.families.base import VideoModel
from afstream.geometry import ChunkClock, Geometry
from afstream.timeline import Cue, Plan
from afstream.timeline.plan import blend_length
from afstream_kernels import on_device


class PendingPrompt(NamedTuple):
    """A prompt change that waits for its chunk: receipt and embeddings [1, T, text_dim]."""

    receipt: Receipt
    embeds: Tensor


class PromptScheduler:
    """Accepts prompt changes, and applies those of the next chunk to a stream's state.

    Args:
        model: its text encoder reads the prompts, its backbone takes them.
        size: size of the video.
        clock: lengths of chunks and frames.

    Attributes:
        spare: buffers and graphs for the first scene, where a stream was warmed up.
    """

    def __init__(self, model: VideoModel, size: Geometry, clock: ChunkClock) -> None:
        self._model = model
        self._size = size
        self.clock = clock
        self.spare: RolloutState | None = None
        self._waiting: queue.SimpleQueue[PendingPrompt] = queue.SimpleQueue()

    def ask(self, cue: Cue, *, now_s: float, asked_at: float) -> Receipt:
        """Queue a cue for the next chunk, whatever its start; may be called from any thread.

        Args:
            cue: the prompt change.
            now_s: start of the next chunk, in seconds of video.
            asked_at: seconds of the host's clock (`time.perf_counter`).

        Raises:
            PromptError: the model cannot understand the prompt.
        """
        start = cue.start
        # a start in latent frames or chunks has no time in seconds: it counts as requested now
        here = start.relative or start.counts_latents
        receipt = Receipt(
            cue=cue,
            requested_s=now_s if here else start.in_seconds(self.clock),
            blend_chunks=blend_length(cue.blend_s, self.clock),
            asked_at=asked_at,
        )
        self._waiting.put(self._encode(receipt))
        return receipt

    def planned(self, plan: Plan) -> dict[int, list[PendingPrompt]]:
        """The changes of a plan, by the chunk at which they take effect.

        Raises:
            PromptError: the model cannot understand a prompt.
            TimelineError: it is no plan, or one for another clock.
        """
        # whoever calls `Stream.play` may have no type checker
        if not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TimelineError(f"{plan!r} cannot be played; give a Timeline, its plan or its text")
        if plan.clock != self.clock:
            raise TimelineError(
                f"the plan is for {plan.clock}; the stream has {self.clock}; plan the timeline"
                " with stream.clock"
            )
        changes: dict[int, list[PendingPrompt]] = {}
        for planned in plan.cues:
            receipt = Receipt(
                cue=planned.cue,
                requested_s=planned.requested_s,
                blend_chunks=planned.blend_chunks,
            )
            try:
                change = self._encode(receipt)
            except PromptError as error:
                # says where it stands
                raise PromptError(str(planned.cue.place.error(str(error)))) from error
            changes.setdefault(planned.chunk, []).append(change)
        return changes

    def again(self, history: Sequence[Change]) -> dict[int, list[PendingPrompt]]:
        """Changes that took effect before, by the chunk at which they did.

        Raises:
            PromptError: the model cannot understand a prompt.
        """
        changes: dict[int, list[PendingPrompt]] = {}
        for chunk, cue in history:
            receipt = Receipt(cue=cue, blend_chunks=blend_length(cue.blend_s, self.clock))
            changes.setdefault(chunk, []).append(self._encode(receipt))
        return changes

    def waiting(self) -> list[PendingPrompt]:
        """All changes queued since the last call."""
        found: list[PendingPrompt] = []
        while not self._waiting.empty():
            found.append(self._waiting.get())
        return found

    def apply(self, changes: Sequence[PendingPrompt], state: StreamState, rollout: Rollout) -> None:
        """Apply the newest change, or the next step of a blend.

        Args:
            changes: those of the next chunk; their receipts are filled in.
            state: changed in place.
            rollout: advances the state.
        """
        for change in changes:
            receipt = change.receipt
            receipt.chunk = state.chunk
            receipt.superseded = change is not changes[-1]
            if receipt.seed is not None:
                state.seed = receipt.seed
        if changes:
            self._begin_segment(changes[-1], state, rollout)
        elif state.blend is not None:
            self._step_blend(state.blend, state, rollout)

    def _encode(self, receipt: Receipt) -> PendingPrompt:
        with on_device(self._model.backbone.device):
            return PendingPrompt(receipt, self._model.text.encode([receipt.prompt]))

    def _begin_segment(self, change: PendingPrompt, state: StreamState, rollout: Rollout) -> None:
        receipt, embeds = change
        state.history.append(Change(state.chunk, replace(receipt.cue, seed=state.seed)))
        before, state.embeds, state.blend = state.embeds, embeds, None
        state.prompt = receipt.prompt
        state.segment += 1
        if state.rollout is None or receipt.transition == "cut":
            self._begin_scene(embeds, state, rollout)
        elif receipt.blend_chunks and before is not None:
            state.blend = Blend(start=before, goal=embeds, chunks=receipt.blend_chunks)
            self._step_blend(state.blend, state, rollout)
        else:
            rollout.switch(state.rollout, self._model.backbone.text_context(embeds))

    def _begin_scene(self, embeds: Tensor, state: StreamState, rollout: Rollout) -> None:
        text = self._model.backbone.text_context(embeds)
        state.decoder = None
        if state.rollout is None:
            state.rollout, self.spare = self.spare, None
        if state.rollout is None:
            state.rollout = rollout.start(text, self.chunk_shape(rollout))
        else:
            rollout.restart(state.rollout, text)

    def chunk_shape(self, rollout: Rollout) -> tuple[int, ...]:
        """Shape of a chunk's latents, (1, c, C, h, w)."""
        size, config = self._size, self._model.backbone.config
        frames = rollout.policy.lengths.chunk_frames
        return 1, frames, config.in_dim, size.latent_height, size.latent_width

    def _step_blend(self, blend: Blend, state: StreamState, rollout: Rollout) -> None:
        """Move one step from one prompt to the next; the last step's chunk becomes the junction."""
        if state.rollout is None:
            return
        blend.done += 1
        arrived = blend.done == blend.chunks
        embeds = torch.lerp(blend.start, blend.goal, blend.done / blend.chunks)
        text = self._model.backbone.text_context(embeds)
        rollout.switch(state.rollout, text, anchor=arrived)
        state.embeds = embeds
        if arrived:
            state.blend = None
