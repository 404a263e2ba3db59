"""A stream: prompts in at any time, decoded video out chunk by chunk, for as long as wanted.

`Stream` is the one place where text encoder, rollout and decoder meet. Generating,
benchmarking and evaluating all iterate over it.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from afstream.budget.estimate import Estimate
from afstream.budget.settle import Demand, settle
from afstream.chunk import Chunk, ChunkTiming, Receipt, Transition
from afstream.config import MemoryPolicy, memory_policy
from afstream.errors import ConfigError
from afstream.geometry import Geometry
from afstream.model.bundle import VideoModel
from afstream.models import compile_backbone, kernel_backend, open_model
from afstream.rollout import Rollout, RolloutState
from afstream.spec import ModelSpec
from afstream.stopwatch import Stopwatch
from afstream.timeline import Plan, Timeline
from afstream.timeline.plan import blend_length
from afstream_kernels import Backend


@dataclass(slots=True, kw_only=True)
class _Request:
    """A prompt change on its way: encoded, and when it was asked for."""

    receipt: Receipt
    embeds: Tensor
    asked: float | None


@dataclass(slots=True, kw_only=True)
class _Blend:
    """A text on its way from one prompt's embeddings to another's."""

    start: Tensor
    goal: Tensor
    chunks: int
    done: int = 0


@dataclass(slots=True, kw_only=True)
class StreamState:
    """All that changes while a stream runs; nothing of it grows.

    Attributes:
        rollout: memory, recent latents and position in the scene; None before the start.
        decoder: the decoder's own state, None at a scene's start.
        seed: of the noise.
        chunk: index of the next chunk.
        segment: index of the prompt in force, -1 before the first.
        video_frame: video frames made so far.
        prompt: the prompt in force.
        embeds: its embeddings [1, T, text_dim].
        blend: set while one prompt turns into another.
    """

    seed: int
    rollout: RolloutState | None = None
    decoder: Any = None
    chunk: int = 0
    segment: int = -1
    video_frame: int = 0
    prompt: str = ""
    embeds: Tensor | None = None
    blend: _Blend | None = field(default=None, repr=False)


class Stream:
    """A running video.

    Example:
        >>> stream = Stream.open(seed=1)
        >>> receipt = stream.cue("A red star drifts left over a meadow.")
        >>> chunks = stream.chunks()
        >>> next(chunks).frames.shape
        (9, 64, 64, 3)
        >>> receipt.chunk
        0
    """

    def __init__(
        self,
        model: VideoModel,
        policy: MemoryPolicy,
        *,
        seed: int = 0,
        size: Geometry | None = None,
        backend: str | None = None,
        compiled: bool = False,
        graphs: bool = True,
    ) -> None:
        if size is not None and size != model.geometry and not model.any_size:
            own = model.geometry
            raise ConfigError(
                f"size is {size.width_px}x{size.height_px}; the model {model.name!r} makes"
                f" {own.width_px}x{own.height_px} px only (a video can be scaled when written)"
            )
        self.model = model
        self.geometry = size or model.geometry
        self.state = StreamState(seed=seed)
        self._rollout = Rollout.of(
            model.backbone,
            policy,
            model.sampler,
            backend=kernel_backend(backend, model.backbone),
            use_graphs=graphs,
        )
        if compiled:
            compile_backbone(model.backbone)
        self.compiled = compiled
        # set by `open` where there is a GPU to fit
        self.estimate: Estimate | None = None
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()

    @classmethod
    def open(
        cls,
        model: str | ModelSpec = "pocket",
        *,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        memory: str = "anchor",
        junction: str | None = None,
        backend: str | None = None,
        compiled: bool = False,
        graphs: bool = True,
        prompts: Sequence[str] = (),
        gpu_memory: int | None = None,
    ) -> Stream:
        """Load a model and make a stream that waits for its first prompt.

        Args:
            model: a model's name, or all of what `ModelSpec` can say about it.
            seed: same seed, same machine: identical frames.
            size: width and height in pixels; the model's own by default.
            memory: anchor, recache, recapture, rolling or clear.
            junction: hold or gap, for the anchor memory.
            backend: triton, sdpa, reference or auto; None asks AFSTREAM_BACKEND, else auto.
            compiled: compile the layers' elementwise parts, which takes up to minutes at first.
            graphs: on a GPU, capture a chunk's model calls once and replay them.
            prompts: those that are known beforehand; all of them or none, because a Wan folder's
                text encoder may be dropped once they are encoded (see `ModelSpec.text`).
            gpu_memory: bytes of GPU memory to reckon with, as if there were such a GPU; None for
                what is free on the one that is there.

        Raises:
            ConfigError: a setting is unknown or impossible here, or the model does not fit.
            CheckpointError: there is no such model, or a piece is missing or does not fit.
            PromptError: the model cannot understand a prompt.
        """
        geometry = Geometry(width_px=size[0], height_px=size[1]) if size else None
        policy = memory_policy(memory, junction=junction)
        demand = Demand(
            size=geometry,
            policy=policy,
            backend=backend,
            graphs=graphs,
            prompts=len(set(prompts)),
            gpu_memory=gpu_memory,
        )
        wanted = ModelSpec(name=model) if isinstance(model, str) else model
        spec, estimate = settle(wanted, demand)
        stream = cls(
            open_model(spec, prompts=prompts),
            policy,
            seed=seed,
            size=geometry,
            backend=backend,
            compiled=compiled,
            graphs=graphs,
        )
        stream.estimate = estimate
        return stream

    def fork(self) -> Stream:
        """A stream of its own that goes on from here; neither disturbs the other.

        Weights are shared. Prompts that wait for the next chunk stay with this stream.
        """
        state, rollout = self.state, self._rollout
        other = Stream(
            self.model,
            rollout.policy,
            size=self.geometry,
            backend=rollout.backend,
            graphs=rollout.use_graphs,
        )
        other.compiled, other.estimate = self.compiled, self.estimate
        with torch.inference_mode():
            other.state = replace(
                state,
                rollout=state.rollout and state.rollout.fork(),
                blend=state.blend and replace(state.blend),
            )
        return other

    @property
    def fps(self) -> int:
        """Video frames a second."""
        return self.model.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.geometry.width_px, self.geometry.height_px

    @property
    def backend(self) -> Backend:
        """What the kernels run on."""
        return self._rollout.backend

    @property
    def graphs(self) -> bool:
        """Whether model calls are captured and replayed."""
        return self._rollout.use_graphs

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self.model.name

    def cue(
        self,
        prompt: str,
        *,
        transition: Transition = "switch",
        blend_s: float = 0.0,
        seed: int | None = None,
        note: str = "",
    ) -> Receipt:
        """Change the prompt with the next chunk; may be called from any thread, at any time.

        Args:
            prompt: what shall be seen from now on.
            transition: `switch` keeps the scene, `cut` begins a new one.
            blend_s: seconds over which the old prompt turns into the new one.
            seed: of the noise from there on.
            note: kept in the receipt.

        Returns:
            A receipt that names the chunk once the change took effect.

        Raises:
            PromptError: the model cannot understand the prompt; nothing changes.
        """
        receipt = Receipt(
            prompt=prompt,
            transition=transition,
            blend_chunks=blend_length(blend_s),
            seed=seed,
            note=note,
        )
        self._ask(receipt, asked=time.perf_counter())
        return receipt

    def play(self, timeline: Timeline | Plan) -> Iterator[Chunk]:
        """Play a timeline from its start to its end; every prompt is checked beforehand.

        Raises:
            PromptError: the model cannot understand a prompt; no frame has been made.
            TimelineError: the timeline cannot be laid out on chunks.
        """
        plan = timeline.plan() if isinstance(timeline, Timeline) else timeline
        due: dict[int, list[_Request]] = {}
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
        return self._play(due, plan.num_chunks)

    def chunks(self) -> Iterator[Chunk]:
        """Chunks without end; give a first prompt with `cue` before taking one.

        Raises:
            ConfigError: no prompt was given yet.
        """
        while True:
            yield self._next_chunk(())

    def _play(self, due: dict[int, list[_Request]], num_chunks: int) -> Iterator[Chunk]:
        for index in range(num_chunks):
            yield self._next_chunk(due.get(index, ()))

    def _ask(self, receipt: Receipt, *, asked: float | None) -> None:
        self._requests.put(self._encode(receipt, asked=asked))

    def _encode(self, receipt: Receipt, *, asked: float | None) -> _Request:
        return _Request(
            receipt=receipt, embeds=self.model.text.encode([receipt.prompt]), asked=asked
        )

    def _next_chunk(self, planned: Sequence[_Request]) -> Chunk:
        began = time.perf_counter()
        watch = Stopwatch(self.model.backbone.device)
        state = self.state
        requests = [*planned, *self._waiting()]
        with torch.inference_mode():
            self._apply(requests)
            rollout = state.rollout
            if rollout is None:
                raise ConfigError("the stream has no prompt yet; call cue(prompt) first")
            watch.lap("switch")
            new_before = rollout.graphs.num_new if rollout.graphs else 0
            noise = self._noise(rollout)
            clean = self._rollout.denoise(rollout, noise)
            watch.lap("denoise")
            video, state.decoder = self.model.vae.decode(clean, state.decoder)
            pictures = ((video[0].float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
            watch.lap("decode")
            self._rollout.commit(rollout, clean)
            watch.lap("context")
            frames = pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        ended = time.perf_counter()
        for request in requests:
            request.receipt.switch_ms = 1000 * (ended - (request.asked or began))
        spent = watch.read_ms()
        chunk = Chunk(
            index=state.chunk,
            segment=state.segment,
            prompt=state.prompt,
            frames=frames,
            latents=clean,
            start_s=state.video_frame / self.fps,
            receipts=tuple(request.receipt for request in requests),
            timing=ChunkTiming(
                switch_ms=spent["switch"],
                denoise_ms=spent["denoise"],
                decode_ms=spent["decode"],
                context_ms=spent["context"],
                total_ms=1000 * (ended - began),
            ),
            warm_up=self._warms_up(rollout, new_before),
        )
        state.chunk += 1
        state.video_frame += len(frames)
        return chunk

    def _warms_up(self, rollout: RolloutState, new_before: int) -> bool:
        """Whether the chunk just made prepared something that later ones use."""
        if rollout.graphs is not None and rollout.graphs.num_new > new_before:
            return True
        # compiled layers meet other lengths until the window is full
        policy = self._rollout.policy
        full = policy.window_frames // policy.chunk_frames
        return self.state.chunk < (full if self.compiled else 1)

    def _waiting(self) -> list[_Request]:
        """All requests that came in since the last chunk."""
        found: list[_Request] = []
        while not self._requests.empty():
            found.append(self._requests.get())
        return found

    def _apply(self, requests: Sequence[_Request]) -> None:
        """Bring the newest request into force, and go on with a blend."""
        state = self.state
        for request in requests:
            request.receipt.chunk = state.chunk
            request.receipt.superseded = request is not requests[-1]
            if request.receipt.seed is not None:
                state.seed = request.receipt.seed
        if requests:
            self._begin_segment(requests[-1])
        elif state.blend is not None:
            self._step_blend(state.blend)

    def _begin_segment(self, request: _Request) -> None:
        state, receipt = self.state, request.receipt
        before, state.embeds, state.blend = state.embeds, request.embeds, None
        state.prompt = receipt.prompt
        state.segment += 1
        if state.rollout is None or receipt.transition == "cut":
            self._begin_scene(request.embeds)
        elif receipt.blend_chunks and before is not None:
            state.blend = _Blend(start=before, goal=request.embeds, chunks=receipt.blend_chunks)
            self._step_blend(state.blend)
        else:
            text = self.model.backbone.text_context(request.embeds)
            self._rollout.switch(state.rollout, text)

    def _begin_scene(self, embeds: Tensor) -> None:
        state = self.state
        text = self.model.backbone.text_context(embeds)
        state.decoder = None
        if state.rollout is not None:
            self._rollout.restart(state.rollout, text)
            return
        size, config = self.geometry, self.model.backbone.config
        frames = self._rollout.policy.chunk_frames
        shape = (1, frames, config.in_dim, size.latent_height, size.latent_width)
        state.rollout = self._rollout.start(text, shape)

    def _step_blend(self, blend: _Blend) -> None:
        """One chunk further on the way between two prompts; the last one is the anchor."""
        state = self.state
        if state.rollout is None:
            return
        blend.done += 1
        arrived = blend.done == blend.chunks
        embeds = torch.lerp(blend.start, blend.goal, blend.done / blend.chunks)
        text = self.model.backbone.text_context(embeds)
        self._rollout.switch(state.rollout, text, anchor=arrived)
        state.embeds = embeds
        if arrived:
            state.blend = None

    def _noise(self, rollout: RolloutState) -> Tensor:
        """The chunk's noise [steps, 1, c, C, h, w], a function of seed and chunk alone.

        Drawn on the CPU, so that a GPU starts from the same noise.
        """
        steps = len(self._rollout.schedule.sigmas)
        shape = (steps, *rollout.shape)
        name = f"{self.state.seed}:{self.state.chunk}".encode()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")
        generator = torch.Generator().manual_seed(number)
        # latents stay in float32 or better: the sampler's sums lose too much in bfloat16
        dtype = torch.promote_types(self.model.backbone.dtype, torch.float32)
        # a copy from ordinary memory would make the host wait
        pinned = self.model.backbone.device.type == "cuda"
        noise = torch.empty(shape, pin_memory=pinned).normal_(generator=generator)
        return noise.to(dtype)
