"""Long rollouts for training: the stream itself, window by window, and its gradients afterwards.

A window is what the teacher can see at once, for example 21 latent frames. The first is all new;
each later one begins with the last frames of the one before. A prompt switch falls between two.

Gradients flow through one denoise step of each chunk, and cached keys carry none, so a chunk's
gradient depends on nothing that comes later. The rollout therefore runs without gradients first,
exactly as in generation. When the loss is known, the window is replayed from a copy of the
memory, one step with gradients per chunk: what autograd holds at a time is one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from afstream.engine.rollout import Rollout
from afstream.engine.schedule import clean_from_flow
from afstream.engine.state import RolloutState
from afstream.model.dit import TextContext
from afstream.model.protocols import VideoDecoder
from afstream.training.trainer.settings import Frames
from afstream.validation import Checked

# chunk index to noise [steps, B, c, C, h, w]
DrawNoise = Callable[[int], Tensor]


class Codec(VideoDecoder, Protocol):
    """Latents to pictures and back."""

    def encode(self, frames: Tensor) -> tuple[Tensor, Any]:
        """A scene's first frames [B, N, 3, H, W] to latents [B, F, C, h, w], and a state."""
        ...


class WindowPlan(Checked):
    """Lengths of long rollouts, in latent frames.

    Attributes:
        horizon_frames: length of a window, what the teacher sees.
        overlap_frames: frames of the window before that a later one begins with.
        max_frames: a sequence ends when another window would make it longer than this.
    """

    horizon_frames: Frames
    overlap_frames: Frames
    max_frames: Frames

    @property
    def new_frames(self) -> int:
        """Frames that a later window adds."""
        return self.horizon_frames - self.overlap_frames

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Frames at which a window ends and another one begins, for example 21, 39, ..."""
        return tuple(range(self.horizon_frames, self.last_frame, self.new_frames))

    @property
    def last_frame(self) -> int:
        """Length of a whole sequence."""
        more = (self.max_frames - self.horizon_frames) // self.new_frames
        return self.horizon_frames + more * self.new_frames


class MadeChunk(NamedTuple):
    """A chunk of a window: the input of its exit step, and its clean latents, [B, c, C, h, w]."""

    noisy: Tensor
    clean: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one step of a long rollout made.

    `latents` [B, F, C, h, w] are what the teacher sees, `counts` [F] is true for the new frames,
    `embeds` [B, T, text_dim] are those of the prompt in force, as the student reads it, and `told`
    what teacher and critic read of it. The new chunks all stopped at
    denoise step `exit_step`; `before` is the stream's state before them, None unless it was to be
    kept.
    """

    latents: Tensor
    counts: Tensor
    embeds: Tensor
    told: Tensor
    chunks: tuple[MadeChunk, ...]
    exit_step: int
    before: RolloutState | None


class LongSequence:
    """A batch of streams that grow window by window, with one prompt switch.

    `embeds` are those of the first and the second prompts, [B, T, text_dim] each; the second holds
    from latent frame `switch_frame`, 0 for no switch. Where `told` is given, teacher and critic
    read it in place of the second. A chunk has the shape (B, c, C, h, w). A codec shows the teacher
    the first frame of a later window as an image, as it knows first frames.
    """

    def __init__(
        self,
        rollout: Rollout,
        plan: WindowPlan,
        embeds: tuple[Tensor, Tensor],
        *,
        switch_frame: int,
        shape: Sequence[int],
        codec: Codec | None = None,
        told: Tensor | None = None,
    ) -> None:
        self.plan = plan
        self._embeds = embeds
        self._told = embeds[1] if told is None else told
        self._switch_frame = switch_frame
        self._codec = codec
        self._decoder: Any = None
        self._overlap: Tensor | None = None
        # the first picture of each chunk in the overlap, [B, 1, 3, H, W]
        self._shown: list[Tensor] = []
        self.state = rollout.start(self._text(rollout, 0), shape)

    @property
    def finished(self) -> bool:
        """Whether there is no window left."""
        return self.state.frame >= self.plan.last_frame

    @torch.no_grad()
    def advance(self, rollout: Rollout, noise: DrawNoise, exit_step: int, *, keep: bool) -> Window:
        """Make the next window with the student's present weights.

        `noise` draws that of a chunk, by its index in the sequence; all chunks stop at denoise step
        `exit_step`, 0 the first. `keep` copies the memory, which a replay takes.
        """
        state, plan = self.state, self.plan
        start = state.frame
        if start and start == self._switch_frame:
            rollout.switch(state, self._text(rollout, start))
        before = state.fork() if keep else None
        chunk_frames = rollout.policy.lengths.chunk_frames
        stop = start + (plan.new_frames if start else plan.horizon_frames)
        chunks: list[MadeChunk] = []
        while state.frame < stop:
            drawn = noise(state.frame // chunk_frames)[: exit_step + 1]
            noisy, flow = rollout.predict(state, drawn)
            clean = clean_from_flow(
                noisy, flow, rollout.schedule_at(state.frame)[0].sigmas[exit_step]
            )
            rollout.commit(state, clean)
            chunks.append(MadeChunk(noisy, clean))
            if self._codec:
                pictures, self._decoder = self._codec.decode(clean, self._decoder)
                # the last picture of the chunk's first latent frame, for chunks of the overlap
                shown = pictures.shape[1] // chunk_frames
                self._shown.append(pictures[:, shown - 1 : shown])
                del self._shown[: -plan.overlap_frames // chunk_frames]
        made = [chunk.clean for chunk in chunks]
        seen = made if self._overlap is None else [self._overlap, *made]
        latents = torch.cat(seen, dim=1)
        self._overlap = self._as_first(latents[:, -plan.overlap_frames :])
        counts = torch.ones(latents.shape[1], dtype=torch.bool)
        counts[: plan.overlap_frames if start else 0] = False
        return Window(
            latents=latents,
            counts=counts,
            embeds=self._in_force(start),
            told=self._told if self._is_second(start) else self._embeds[0],
            chunks=tuple(chunks),
            exit_step=exit_step,
            before=before,
        )

    def _as_first(self, overlap: Tensor) -> Tensor:
        """The last latent frames [B, F, C, h, w], the first of them encoded as an image."""
        if self._codec is None:
            return overlap
        image, _ = self._codec.encode(self._shown[0])
        return torch.cat([image.to(overlap), overlap[:, 1:]], dim=1)

    def _in_force(self, frame: int) -> Tensor:
        return self._embeds[1 if self._is_second(frame) else 0]

    def _is_second(self, frame: int) -> bool:
        return bool(self._switch_frame) and frame >= self._switch_frame

    @torch.no_grad()
    def _text(self, rollout: Rollout, frame: int) -> TextContext:
        return rollout.model.text_context(self._in_force(frame))


def replay(rollout: Rollout, window: Window, gradient: Tensor) -> None:
    """Carry the loss's gradient into the student's weights, chunk by chunk.

    `gradient` is with respect to the window's latents [B, F, C, h, w]. The weights must be those
    that made the window; its copy of the memory is used up.

    Raises:
        ValueError: the window was made without a copy of the memory.
    """
    if window.before is None:
        raise ValueError("the window was made without keeping the memory; make it with keep=True")
    state = replace(window.before)
    parts = gradient.split(rollout.policy.lengths.chunk_frames, dim=1)[-len(window.chunks) :]
    for chunk, part in zip(window.chunks, parts, strict=True):
        with torch.enable_grad():
            text = rollout.model.text_context(window.embeds)
            clean = rollout.step(state, chunk.noisy, window.exit_step, text)
            clean.backward(part.to(clean.dtype))
        # what later chunks saw: the latents of the rollout itself
        rollout.commit(state, chunk.clean)
