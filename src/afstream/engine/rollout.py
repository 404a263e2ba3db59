"""The steps of every stream: denoise a chunk, context pass, switch, cut.

Streams, benchmarks, parity checks and distillation all advance through `Rollout`. All state of one
stream of latents is in `RolloutState`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from afstream.attention import ATTENTION, choose_attention
from afstream.config import SamplerConfig
from afstream.engine.cuda_graph import Call, Graphs, Results
from afstream.engine.schedule import Schedule, add_noise, clean_from_flow
from afstream.engine.state import RolloutState
from afstream.kvcache.cache import KVCache
from afstream.kvcache.context import CacheContext
from afstream.kvcache.policy import MemoryPolicy, Recache
from afstream.model.dit import TextContext, TimeContext
from afstream.model.protocols import DenoisingBackbone
from afstream_kernels import AnyBackend, Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Advances a `RolloutState` with a backbone, a schedule and a memory policy.

    Attributes:
        model: predicts flows.
        policy: what the stream remembers.
        schedule: the denoise steps.
        first_schedule: those of a scene's first chunk; None where they are the same.
        backend: of the kernels.
        use_graphs: whether a chunk's model calls are captured as CUDA graphs. That takes a GPU that
            holds all weights, and an attention backend that can be captured.
        times: the schedule's timesteps, embedded; the last one is the context pass's 0.
        first_times: likewise of the first schedule.
    """

    model: DenoisingBackbone
    policy: MemoryPolicy
    schedule: Schedule
    backend: Backend
    first_schedule: Schedule | None = None
    use_graphs: bool = False
    times: tuple[TimeContext, ...] = field(repr=False)
    first_times: tuple[TimeContext, ...] = field(repr=False, default=())

    @classmethod
    def of(
        cls,
        model: DenoisingBackbone,
        policy: MemoryPolicy,
        sampler: SamplerConfig,
        *,
        backend: AnyBackend = None,
        use_graphs: bool = False,
    ) -> Rollout:
        """Embed the schedule's timesteps once.

        Args:
            model: predicts flows.
            policy: what the stream remembers.
            sampler: the denoise steps.
            backend: a `Backend` chosen before, or its name; None chooses by the model's device and
                dtype.
            use_graphs: see the attribute.

        Raises:
            ValueError: the backend cannot run there.
        """
        chosen = choose_attention(backend, device=model.device, dtype=model.dtype)
        num_visible, window_chunks = policy.num_visible, policy.lengths.window_chunks
        captures = ATTENTION[chosen.name].num_graphs(num_visible, window_chunks) > 0
        schedule = Schedule.of(sampler)
        first = None if sampler.first_steps is None else Schedule.of(sampler, frame=0)
        with torch.no_grad():
            times, first_times = (
                tuple(
                    model.time_context(torch.full((1, 1), step, device=model.device))
                    for step in (*one.timesteps, 0.0)
                )
                if one
                else ()
                for one in (schedule, first)
            )
        return cls(
            model=model,
            policy=policy,
            schedule=schedule,
            first_schedule=first,
            backend=chosen,
            use_graphs=use_graphs
            and model.device.type == "cuda"
            and captures
            and not model.is_offloaded,
            times=times,
            first_times=first_times,
        )

    @property
    def latent_dtype(self) -> torch.dtype:
        """Float32 or better: the sampler's sums lose too much in bfloat16."""
        return torch.promote_types(self.model.dtype, torch.float32)

    def start(self, text: TextContext, shape: Sequence[int]) -> RolloutState:
        """Begin a scene.

        Args:
            text: the first prompt.
            shape: of one chunk of latents, (B, c, C, h, w).
        """
        batch, _, _, height, width = shape
        patch = self.model.config.patch
        cache = KVCache.allocate(
            self.policy,
            self.model.config,
            (height // patch, width // patch),
            batch=batch,
            dtype=self.model.dtype,
            device=self.model.device,
            backend=self.backend,
        )
        return RolloutState(
            cache=cache,
            shape=tuple(shape),
            recent=deque(maxlen=self.policy.lengths.window_chunks),
            text=tuple(keys.clone() for keys in text) if self.use_graphs else text,
            graphs=Graphs() if self.use_graphs else None,
        )

    def restart(self, state: RolloutState, text: TextContext) -> None:
        """Cut: begin a fresh scene in the same buffers."""
        state.cache.clear()
        state.recent.clear()
        self._set_text(state, text)
        state.frame = 0

    def schedule_at(self, frame: int) -> tuple[Schedule, tuple[TimeContext, ...]]:
        """Denoise steps of the chunk at a scene's latent frame, and their embedded timesteps."""
        if frame == 0 and self.first_schedule:
            return self.first_schedule, self.first_times
        return self.schedule, self.times

    def noise(self, state: RolloutState, *, seed: int, chunk: int) -> Tensor:
        """A chunk's noise [steps, B, c, C, h, w], a function of seed and chunk alone.

        Drawn on the CPU, so that a GPU starts from the same noise.
        """
        number = hashlib.blake2b(f"{seed}:{chunk}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(number, "big"))
        # a copy from pageable memory would make the host wait
        pinned = self.model.device.type == "cuda"
        shape = (len(self.schedule_at(state.frame)[0].sigmas), *state.shape)
        return (
            torch.empty(shape, pin_memory=pinned).normal_(generator=generator).to(self.latent_dtype)
        )

    def denoise(self, state: RolloutState, noise: Tensor) -> Tensor:
        """Run all denoise steps of the next chunk.

        Args:
            state: not advanced; an unfinished chunk has a slot of its own.
            noise: [steps, B, c, C, h, w], on any device: the chunk's start, then the noise that is
                added after each step but the last.

        Returns:
            The clean chunk [B, c, C, h, w].
        """
        noisy, flow = self.predict(state, noise)
        schedule, _ = self.schedule_at(state.frame)
        # not part of the graph, whose results the next chunk overwrites
        return clean_from_flow(noisy, flow, schedule.sigmas[-1])

    @torch.no_grad()
    def predict(self, state: RolloutState, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Run the next chunk's first denoise steps, one for each noise given.

        Args:
            state: see `denoise`.
            noise: [steps or fewer, B, c, C, h, w]; see `denoise`.

        Returns:
            The input of the last of these steps, and its flow, both [B, c, C, h, w].
        """
        context = state.cache.chunk_context(state.frame)
        schedule, times = self.schedule_at(state.frame)
        sigmas = schedule.sigmas[: len(noise)]

        def predict(noise: Tensor) -> tuple[Tensor, Tensor]:
            noisy = noise[0]
            for step, sigma in enumerate(sigmas[:-1]):
                flow = self.model(noisy, times[step], state.text, context)
                clean = clean_from_flow(noisy, flow, sigma)
                noisy = add_noise(clean, noise[step + 1], sigmas[step + 1])
            return noisy, self.model(noisy, times[len(sigmas) - 1], state.text, context)

        # the sigmas are constants of a captured graph
        noisy, flow = self._run(state, f"denoise {sigmas}", predict, noise, context)
        return noisy, flow

    def step(self, state: RolloutState, noisy: Tensor, index: int, text: TextContext) -> Tensor:
        """One denoise step of the next chunk, with gradients to the weights.

        The chunk's own keys and values carry gradients, those of finished chunks none.

        Args:
            state: not advanced; call `backward` before it changes.
            noisy: input of the step [B, c, C, h, w].
            index: index of the step; 0 is the noisiest.
            text: the current prompt, with gradients where its projections are trained.

        Returns:
            The clean chunk [B, c, C, h, w] as this step sees it.
        """
        context = state.cache.chunk_context(state.frame)
        schedule, _ = self.schedule_at(state.frame)
        timestep = torch.full((1, 1), schedule.timesteps[index], device=noisy.device)
        flow = self.model(noisy, self.model.time_context(timestep), text, context)
        return clean_from_flow(noisy, flow, schedule.sigmas[index])

    @torch.no_grad()
    def commit(self, state: RolloutState, clean: Tensor) -> None:
        """Context pass: store the finished chunk's keys and values, and advance by a chunk."""
        context = state.cache.chunk_context(state.frame)

        def write(clean: Tensor) -> tuple[()]:
            self.model.write_kv(clean, self.times[-1], state.text, context)
            return ()

        self._run(state, "context", write, clean, context)
        state.cache.store(state.frame)
        state.recent.append(clean)
        state.frame += self.policy.lengths.chunk_frames

    @torch.no_grad()
    def switch(self, state: RolloutState, text: TextContext, *, anchor: bool = True) -> None:
        """Change the prompt before the next chunk, as the memory policy says.

        Args:
            state: its text and cache are changed in place.
            text: the new prompt.
            anchor: whether the next chunk becomes a junction; false for all but the last step of a
                blend.
        """
        self._set_text(state, text)
        if state.frame == 0:
            return
        anchors = state.cache.anchors
        recache = self.policy.switch(anchors, state.frame)
        if recache is not None:
            self._recache(state, recache)
        if anchor:
            self.policy.promote(anchors, state.frame)

    def _run(
        self, state: RolloutState, name: str, call: Call, source: Tensor, context: CacheContext
    ) -> Results:
        """Run `call(source)`, or replay its CUDA graph."""
        device = self.model.device
        if state.graphs is None or context.graph_key is None:
            return call(source.to(device, non_blocking=True))
        return state.graphs.run((name, context.graph_key), call, source, device)

    def _recache(self, state: RolloutState, recache: Recache) -> None:
        """Recompute the window's keys and values under the new prompt, in one call."""
        context = state.cache.recache_context(recache)
        latents = torch.cat(tuple(state.recent), dim=1)
        # other slots at each switch: a compiled call would be compiled again
        eager = (
            torch.compiler.set_stance("force_eager") if self.model.is_compiled else nullcontext()
        )
        with eager:
            self.model.write_kv(latents, self.times[-1], state.text, context)

    @staticmethod
    def _set_text(state: RolloutState, text: TextContext) -> None:
        """Set the prompt, with CUDA graphs at the addresses of the one before."""
        if state.graphs is None:
            state.text = text
        else:
            for old, new in zip(state.text, text, strict=True):
                old.copy_(new)
