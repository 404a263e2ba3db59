"""The only loop body: denoise a chunk, pass it through as context, switch, cut.

Streams, benchmarks, parity checks and distillation all advance through `Rollout`.
Everything that belongs to one stream of latents stands in `RolloutState`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from afstream.attention import ATTENTION, choose_attention
from afstream.config import SamplerConfig
from afstream.engine.cuda_graph import Call, Graphs, Results
from afstream.engine.schedule import Schedule, add_noise, clean_from_flow
from afstream.kvcache.cache import KVCache
from afstream.kvcache.context import CacheContext
from afstream.kvcache.policy import MemoryPolicy, Recache
from afstream.model.dit import TextContext, TimeContext
from afstream.model.protocols import DenoisingBackbone
from afstream_kernels import AnyBackend, Backend


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A backbone, a schedule and a memory policy: what advances a `RolloutState`.

    Attributes:
        model: predicts flows.
        policy: what is remembered.
        schedule: the denoise steps.
        first_schedule: those of a scene's first chunk; None where they are the same.
        backend: of the kernels.
        use_graphs: capture the model calls of a chunk and replay them, on a GPU, with all
            weights there, and where the attention backend can be captured.
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
            policy: what is remembered.
            sampler: the denoise steps.
            backend: chosen before, or its name; None chooses by the model's device and dtype.
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
        """Cut: a fresh scene in the same buffers."""
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
        # latents stay in float32 or better: the sampler's sums lose too much in bfloat16
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        # a copy from ordinary memory would make the host wait
        pinned = self.model.device.type == "cuda"
        shape = (len(self.schedule_at(state.frame)[0].sigmas), *state.shape)
        return torch.empty(shape, pin_memory=pinned).normal_(generator=generator).to(dtype)

    def denoise(self, state: RolloutState, noise: Tensor) -> Tensor:
        """All denoise steps of the next chunk.

        Args:
            state: only read; keys of unfinished chunks have a place of their own.
            noise: [steps, B, c, C, h, w], on any device: where the chunk starts, then what
                is added after each step but the last.

        Returns:
            The clean chunk [B, c, C, h, w].
        """
        noisy, flow = self.predict(state, noise)
        schedule, _ = self.schedule_at(state.frame)
        # outside of the graph, whose results are overwritten by the next chunk's
        return clean_from_flow(noisy, flow, schedule.sigmas[-1])

    @torch.no_grad()
    def predict(self, state: RolloutState, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The next chunk's denoise steps, as many as there is noise for.

        Args:
            state: see `denoise`.
            noise: [steps or fewer, B, c, C, h, w]; see `denoise`.

        Returns:
            What the last of these steps starts from, and its flow, [B, c, C, h, w] both.
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

        # a captured call holds its sigmas
        noisy, flow = self._run(state, f"denoise {sigmas}", predict, noise, context)
        return noisy, flow

    def step(self, state: RolloutState, noisy: Tensor, index: int, text: TextContext) -> Tensor:
        """One denoise step of the next chunk, with gradients to the weights.

        The chunk's own keys and values carry gradients, those of finished chunks none.

        Args:
            state: only read; call `backward` before it changes.
            noisy: where the step starts [B, c, C, h, w].
            index: of the step, 0 the noisiest.
            text: the prompt in force, with gradients if they shall reach its projections.

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
        """Context pass: compute the finished chunk's keys and values, keep them, and move on."""
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
            state: its text and cache are changed.
            text: the new prompt.
            anchor: whether the next chunk becomes a junction; false on the way of a blend.
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
        """`call(source)`, replayed where that can be."""
        device = self.model.device
        if state.graphs is None or context.graph_key is None:
            return call(source.to(device, non_blocking=True))
        return state.graphs.run((name, context.graph_key), call, source, device)

    def _recache(self, state: RolloutState, recache: Recache) -> None:
        """One call on finished clean latents under the new prompt, warm from the anchors."""
        context = state.cache.recache_context(recache)
        latents = torch.cat(tuple(state.recent), dim=1)
        # once a switch, with other slots each time: a compiled call would be compiled anew
        eager = (
            torch.compiler.set_stance("force_eager") if self.model.is_compiled else nullcontext()
        )
        with eager:
            self.model.write_kv(latents, self.times[-1], state.text, context)

    @staticmethod
    def _set_text(state: RolloutState, text: TextContext) -> None:
        """Bring a prompt into force; a captured graph reads it where the last one stood."""
        if state.graphs is None:
            state.text = text
        else:
            for old, new in zip(state.text, text, strict=True):
                old.copy_(new)
