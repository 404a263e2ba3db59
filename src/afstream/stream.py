"""A stream: prompts in at any time, decoded video out chunk by chunk, for as long as wanted.

`Stream` is the one place where prompts, rollout and delivery meet. Generating, benchmarking
and evaluating all iterate over it.

A chunk is first launched, then handed out: launching brings prompts into force, denoises, begins
to decode and makes the context pass, and on a GPU waits for none of it; handing out waits for the
frames. A stream that runs ahead launches each chunk before it hands out the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from afstream.engine.chunk import Chunk, Receipt, Transition
from afstream.engine.decode import Delivery, InFlight, lane_on
from afstream.engine.prompts import Prompts, Request
from afstream.engine.rollout import Rollout, RolloutState
from afstream.engine.state import StreamState
from afstream.engine.stopwatch import Stopwatch
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.opening import kernel_backend, open_model
from afstream.families.presets import choose_memory, find_preset
from afstream.families.registry import family_of
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.fit import fit
from afstream.memory_plan.report import MemoryReport
from afstream.spec import ModelSpec, StreamConfig
from afstream.timeline import Plan, Timeline
from afstream.timeline.plan import blend_length
from afstream_kernels import Backend

__all__ = ["Chunk", "Receipt", "Stream", "StreamState"]


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
        backend: Backend | str | None = None,
        graphs: bool = True,
        ahead: bool | None = None,
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
        device = model.backbone.device
        self.ahead = device.type == "cuda" if ahead is None else ahead
        self._prompts = Prompts(model, self.geometry)
        self._delivery = Delivery(model.vae, lane_on(device))
        # set by `open` where there is a GPU to fit
        self.estimate: MemoryReport | None = None

    @classmethod
    def open(
        cls,
        model: str | ModelSpec = "pocket",
        *,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        memory: str | MemoryPolicy | None = None,
        junction: str | None = None,
        preset: str | None = None,
        backend: str | None = None,
        compiled: bool = False,
        graphs: bool = True,
        prompts: Sequence[str] = (),
        ahead: bool | None = None,
        gpu_memory: int | None = None,
    ) -> Stream:
        """Load a model and make a stream that waits for its first prompt.

        Args:
            model: a model's name, or all of what `ModelSpec` can say about it.
            seed: same seed, same machine: identical frames.
            size: width and height in pixels; the model's own by default.
            memory: anchor, recache, recapture, rolling or clear, or a policy; else the preset's,
                else anchor.
            junction: hold or gap, for a memory with a junction.
            preset: settings of a public family, see `afstream.families.presets`; else as
                recognised by the files' names.
            backend: triton, sdpa, reference or auto; None asks AFSTREAM_BACKEND, else auto.
            compiled: compile the layers' elementwise parts, which takes up to minutes at first.
            graphs: on a GPU, capture a chunk's model calls once and replay them.
            prompts: those that are known beforehand; all of them or none, because a Wan folder's
                text encoder may be dropped once they are encoded (see `ModelSpec.text`).
            gpu_memory: bytes of GPU memory to reckon with, as if there were such a GPU; None for
                what is free on the one that is there.
            ahead: launch each chunk before the one before it is handed out, from the second one
                on; None does so on a GPU. Frames are the same.

        Raises:
            ConfigError: a setting is unknown or impossible here, or the model does not fit.
            CheckpointError: there is no such model, or a piece is missing or does not fit.
            PromptError: the model cannot understand a prompt.
        """
        wanted = ModelSpec(name=model) if isinstance(model, str) else model
        family = family_of(wanted)
        geometry = family.sized(*size) if size else None
        found = find_preset(preset, wanted)
        policy = choose_memory(memory, junction, found, family.lengths)
        config = StreamConfig(
            model=wanted,
            size=size,
            backend=backend,
            graphs=graphs,
            prompts=tuple(prompts),
            gpu_memory=gpu_memory,
        )
        config, estimate = fit(config, policy)
        stream = cls(
            open_model(config.model, prompts=prompts, like=found, compiled=compiled),
            policy,
            seed=seed,
            size=geometry,
            backend=backend,
            graphs=graphs,
            ahead=ahead,
        )
        stream.estimate = estimate
        return stream

    def fork(self) -> Stream:
        """A stream of its own that goes on from here; neither disturbs the other.

        Weights are shared. Prompts that wait for the next chunk stay with this stream; a chunk
        that was launched and not handed out yet is handed out by both.
        """
        rollout = self._rollout
        other = Stream(
            self.model,
            rollout.policy,
            size=self.geometry,
            backend=rollout.backend,
            graphs=rollout.use_graphs,
            ahead=self.ahead,
        )
        other.estimate = self.estimate
        # the decoder's state lives on the lane, so both go on there
        other._delivery = self._delivery
        with torch.inference_mode():
            other.state = self.state.fork()
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
    def policy(self) -> MemoryPolicy:
        """What the stream remembers."""
        return self._rollout.policy

    @property
    def backend(self) -> Backend:
        """What the kernels run on."""
        return self._rollout.backend

    @property
    def compiled(self) -> bool:
        """Whether torch compiles the layers."""
        return self.model.backbone.is_compiled

    @property
    def graphs(self) -> bool:
        """Whether model calls are captured and replayed."""
        return self._rollout.use_graphs

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def next_chunk(self) -> int:
        """Index of the next chunk to be launched: the first that a cue can change."""
        return self.state.chunk

    @property
    def next_s(self) -> float:
        """Time in the video at which that chunk begins."""
        return self.state.video_frame / self.fps

    def cue(
        self,
        prompt: str,
        *,
        transition: Transition = "switch",
        blend_s: float = 0.0,
        seed: int | None = None,
        note: str = "",
    ) -> Receipt:
        """Change the prompt with the next chunk that is launched.

        May be called from any thread, at any time.

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
        self._prompts.ask(receipt, asked=time.perf_counter())
        return receipt

    def play(self, timeline: Timeline | Plan) -> Iterator[Chunk]:
        """Play a timeline from its start to its end; every prompt is checked beforehand.

        Nothing is computed beyond its last chunk. A chunk that an iterator given up before had
        launched comes first.

        Raises:
            PromptError: the model cannot understand a prompt; no frame has been made.
            TimelineError: the timeline cannot be laid out on chunks.
        """
        plan = timeline.plan() if isinstance(timeline, Timeline) else timeline
        due = self._prompts.planned(plan)
        return self._hand_out(iter([due.get(index, []) for index in range(plan.num_chunks)]))

    def chunks(self, before: Callable[[], object] | None = None) -> Iterator[Chunk]:
        """Chunks without end; give a first prompt with `cue` before taking one.

        Where the stream runs ahead, the next chunk has been launched when a chunk is handed
        out. A cue given then changes the one after it: it waits one chunk longer than in a
        stream that was opened with `ahead=False`. An iterator may be given up at any chunk;
        the next one goes on behind it.

        Args:
            before: called before each launch; what it cues takes effect with that chunk.

        Raises:
            ConfigError: no prompt was given yet.
        """

        def turns() -> Iterator[Sequence[Request]]:
            while True:
                if before is not None:
                    before()
                yield ()

        return self._hand_out(turns())

    def _hand_out(self, turns: Iterator[Sequence[Request]]) -> Iterator[Chunk]:
        """Launch a chunk at each turn, and hand all of them out in their order."""
        while True:
            began = time.perf_counter()
            flying, warm_up = self.state.in_flight, False
            while len(flying) < self._wanted(flying):
                planned = next(turns, None)
                if planned is None:
                    break
                flying.append(self._launch(planned))
                warm_up |= flying[-1].warm_up
            if not flying:
                return
            # taken away when it is there: a wait that is broken off loses nothing
            chunk = self._delivery.hand_out(flying[0], began=began, warm_up=warm_up)
            flying.popleft()
            yield chunk

    def _wanted(self, flying: Sequence[InFlight]) -> int:
        """How many chunks to have in flight: the first one is handed out as soon as it can be."""
        return 2 if self.ahead and flying and flying[0].index > 0 else 1

    def _launch(self, planned: Sequence[Request]) -> InFlight:
        """Compute the next chunk; on a GPU all of it may still lie before us afterwards."""
        began = time.perf_counter()
        state, lane = self.state, self._delivery.lane
        watch = Stopwatch(lane.mark)
        requests = [*planned, *self._prompts.waiting()]
        with torch.inference_mode():
            with watch.lap("switch"):
                self._prompts.apply(requests, state, self._rollout)
            scene = state.rollout
            if scene is None:
                raise ConfigError("the stream has no prompt yet; call cue(prompt) first")
            new_before = scene.graphs.num_new if scene.graphs else 0
            with watch.lap("denoise"):
                noise = self._rollout.noise(scene, seed=state.seed, chunk=state.chunk)
                clean = self._rollout.denoise(scene, noise)
            frames, state.decoder = self._delivery.launch(clean, state.decoder, watch)
            with watch.lap("context"):
                self._rollout.commit(scene, clean)
        before, state.done = state.done, lane.finish()
        flight = InFlight(
            index=state.chunk,
            segment=state.segment,
            prompt=state.prompt,
            latents=clean,
            start_s=self.next_s,
            receipts=tuple(request.receipt for request in requests),
            asked=tuple(request.asked or began for request in requests),
            frames=frames,
            watch=watch,
            before=before,
            done=state.done,
            warm_up=self._warms_up(scene, new_before),
        )
        state.chunk += 1
        state.video_frame += len(frames)
        return flight

    def _warms_up(self, scene: RolloutState, new_before: int) -> bool:
        """Whether the chunk just launched prepared something that later ones use."""
        if scene.graphs is not None and scene.graphs.num_new > new_before:
            return True
        # compiled layers meet other lengths until the window is full
        policy = self._rollout.policy
        full = policy.lengths.window_chunks
        return self.state.chunk < (full if self.compiled else 1)
