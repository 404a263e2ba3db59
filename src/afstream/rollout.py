"""The only loop body: denoise a chunk, pass it through as context, switch, cut.

Streams, benchmarks, parity checks and distillation all advance through `Rollout`.
Everything that belongs to one stream of latents stands in `RolloutState`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from afstream.config import MemoryPolicy, SamplerConfig
from afstream.geometry import PATCH
from afstream.memory import Grid, Memory
from afstream.model.dit import Backbone, TextContext, TimeContext
from afstream.schedule import Schedule, add_noise, clean_from_flow


@dataclass(slots=True, kw_only=True)
class RolloutState:
    """One scene's memory and recent clean latents.

    Attributes:
        memory: keys and values, sink and junctions.
        latents: ring of finished chunks [ring, B, c, C, h, w], kept for re-caches.
        frame: the next chunk's first latent frame, counted from the scene's start.
        text: the prompt in force.
    """

    memory: Memory
    latents: Tensor
    text: TextContext
    frame: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A backbone, a schedule and a memory policy: what advances a `RolloutState`."""

    model: Backbone
    policy: MemoryPolicy
    schedule: Schedule
    times: tuple[TimeContext, ...] = field(repr=False)

    @classmethod
    def of(cls, model: Backbone, policy: MemoryPolicy, sampler: SamplerConfig) -> Rollout:
        """Embed the schedule's timesteps once; the last context is the context pass's 0."""
        schedule = Schedule.of(sampler)
        with torch.no_grad():
            times = tuple(
                model.time_context(torch.full((1, 1), step, device=model.device))
                for step in (*schedule.timesteps, 0.0)
            )
        return cls(model=model, policy=policy, schedule=schedule, times=times)

    def start(
        self, text: TextContext, shape: Sequence[int], *, spare_chunks: int = 0
    ) -> RolloutState:
        """Begin a scene.

        Args:
            text: the first prompt.
            shape: of one chunk of latents, (B, c, C, h, w).
            spare_chunks: evicted chunks to keep for later use.
        """
        batch, _, _, height, width = shape
        ring = self.policy.window_frames // self.policy.chunk_frames + spare_chunks
        device = self.model.device
        memory = Memory.allocate(
            self.policy,
            self.model.config,
            Grid(rows=height // PATCH, columns=width // PATCH),
            batch=batch,
            spare_chunks=spare_chunks,
            dtype=self.model.dtype,
            device=device,
        )
        # latents stay in float32 or better: the sampler's sums lose too much in bfloat16
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        latents = torch.zeros(ring, *shape, dtype=dtype, device=device)
        return RolloutState(memory=memory, latents=latents, text=text)

    def restart(self, state: RolloutState, text: TextContext) -> None:
        """Cut: a fresh scene in the same buffers."""
        state.memory.clear(0)
        state.text, state.frame = text, 0

    @torch.no_grad()
    def denoise(self, state: RolloutState, noise: Tensor, fresh: Sequence[Tensor]) -> Tensor:
        """All denoise steps of the next chunk.

        Args:
            state: read, and its current slot written with keys that the context pass
                replaces.
            noise: [B, c, C, h, w], where the chunk starts.
            fresh: noise added after each step but the last, of the same shape.

        Returns:
            The clean chunk [B, c, C, h, w].
        """
        window = state.memory.window(state.frame, self.policy.chunk_frames)
        sigmas = self.schedule.sigmas
        noisy = noise
        for step, sigma in enumerate(sigmas):
            flow = self.model(noisy, self.times[step], state.text, window)
            clean = clean_from_flow(noisy, flow, sigma)
            if step + 1 == len(sigmas):
                return clean
            noisy = add_noise(clean, fresh[step], sigmas[step + 1])
        raise AssertionError  # a schedule has at least one step

    @torch.no_grad()
    def commit(self, state: RolloutState, clean: Tensor) -> None:
        """Context pass: write the finished chunk's keys and values, and move on."""
        chunk = self.policy.chunk_frames
        window = state.memory.window(state.frame, chunk)
        self.model(clean, self.times[-1], state.text, window)
        state.latents[state.frame // chunk % state.latents.shape[0]].copy_(clean)
        state.frame += chunk

    @torch.no_grad()
    def switch(self, state: RolloutState, text: TextContext, *, anchor: bool = True) -> None:
        """Change the prompt before the next chunk, as the memory policy says.

        Args:
            state: its text, memory and anchors are changed.
            text: the new prompt.
            anchor: whether the next chunk becomes a junction; false on the way of a blend.
        """
        state.text = text
        if state.frame == 0:
            return
        if self.policy.at_switch == "clear":
            state.memory.clear(state.frame)
        elif self.policy.at_switch != "keep":
            self._recache(state)
        if anchor and self.policy.junction != "none":
            state.memory.anchors.promote(state.frame)

    def _recache(self, state: RolloutState) -> None:
        """One call on the last W clean latents under the new prompt, warm from the anchors."""
        chunk = self.policy.chunk_frames
        num_frames = min(self.policy.window_frames, state.frame)
        first = state.frame - num_frames
        if self.policy.at_switch == "recapture":
            state.memory.anchors.sink = first
        ring = state.latents.shape[0]
        chunks = [state.latents[at // chunk % ring] for at in range(first, state.frame, chunk)]
        window = state.memory.window(first, num_frames)
        self.model(torch.cat(chunks, dim=1), self.times[-1], state.text, window)
