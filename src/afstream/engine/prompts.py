"""Prompt changes: asked for from any thread, brought into force when a chunk is launched."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afstream.engine.chunk import Receipt
from afstream.engine.rollout import Rollout
from afstream.engine.state import Blend, StreamState
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.timeline import Plan


@dataclass(slots=True, kw_only=True)
class Request:
    """A prompt change on its way: encoded, and when it was asked for."""

    receipt: Receipt
    embeds: Tensor
    asked: float | None


class Prompts:
    """Takes prompt changes in, and turns a stream's state as they say.

    Args:
        model: its text encoder reads them, its backbone takes them.
        size: of the video.
    """

    def __init__(self, model: VideoModel, size: Geometry) -> None:
        self._model = model
        self._size = size
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def ask(self, receipt: Receipt, *, asked: float) -> None:
        """Let a change wait for the next chunk; may be called from any thread.

        Raises:
            PromptError: the model cannot understand the prompt.
        """
        self._requests.put(self._encode(receipt, asked=asked))

    def planned(self, plan: Plan) -> dict[int, list[Request]]:
        """The changes of a plan, by the chunk with which they are due.

        Raises:
            PromptError: the model cannot understand a prompt.
        """
        due: dict[int, list[Request]] = {}
        for planned in plan.cues:
            cue = planned.cue
            receipt = Receipt(
                prompt=cue.prompt,
                transition=cue.transition,
                blend_chunks=planned.blend_chunks,
                seed=cue.seed,
                note=cue.note,
            )
            due.setdefault(planned.chunk, []).append(self._encode(receipt, asked=None))
        return due

    def waiting(self) -> list[Request]:
        """All changes that were asked for since the last call."""
        found: list[Request] = []
        while not self._requests.empty():
            found.append(self._requests.get())
        return found

    def apply(self, requests: Sequence[Request], state: StreamState, rollout: Rollout) -> None:
        """Bring the newest request into force, and go on with a blend.

        Args:
            requests: of the next chunk; their receipts are told.
            state: is changed.
            rollout: advances the state.
        """
        for request in requests:
            request.receipt.chunk = state.chunk
            request.receipt.superseded = request is not requests[-1]
            if request.receipt.seed is not None:
                state.seed = request.receipt.seed
        if requests:
            self._begin_segment(requests[-1], state, rollout)
        elif state.blend is not None:
            self._step_blend(state.blend, state, rollout)

    def _encode(self, receipt: Receipt, *, asked: float | None) -> Request:
        embeds = self._model.text.encode([receipt.prompt])
        return Request(receipt=receipt, embeds=embeds, asked=asked)

    def _begin_segment(self, request: Request, state: StreamState, rollout: Rollout) -> None:
        receipt = request.receipt
        before, state.embeds, state.blend = state.embeds, request.embeds, None
        state.prompt = receipt.prompt
        state.segment += 1
        if state.rollout is None or receipt.transition == "cut":
            self._begin_scene(request.embeds, state, rollout)
        elif receipt.blend_chunks and before is not None:
            state.blend = Blend(start=before, goal=request.embeds, chunks=receipt.blend_chunks)
            self._step_blend(state.blend, state, rollout)
        else:
            text = self._model.backbone.text_context(request.embeds)
            rollout.switch(state.rollout, text)

    def _begin_scene(self, embeds: Tensor, state: StreamState, rollout: Rollout) -> None:
        text = self._model.backbone.text_context(embeds)
        state.decoder = None
        if state.rollout is not None:
            rollout.restart(state.rollout, text)
            return
        size, config = self._size, self._model.backbone.config
        frames = rollout.policy.lengths.chunk_frames
        shape = (1, frames, config.in_dim, size.latent_height, size.latent_width)
        state.rollout = rollout.start(text, shape)

    def _step_blend(self, blend: Blend, state: StreamState, rollout: Rollout) -> None:
        """One chunk further on the way between two prompts; the last one is the anchor."""
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
