"""A stream: prompts in at any time, decoded video out chunk by chunk, for as long as wanted.

Generating, benchmarking and evaluating all iterate over a `Stream`; the chunks are submitted and
collected by `afstream.engine.pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from afstream.engine.chunk import Chunk, Receipt
from afstream.engine.decode import ChunkDecoder, decode_stream_on
from afstream.engine.pipeline import ChunkPipeline
from afstream.engine.rollout import Rollout
from afstream.engine.scheduler import PendingPrompt, PromptScheduler
from afstream.engine.state import StreamState
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.opening import open_model
from afstream.families.presets import find_preset, memory_of
from afstream.families.registry import family_of
from afstream.geometry import ChunkClock
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.fit import fit
from afstream.memory_plan.report import MemoryReport
from afstream.spec import ModelSpec, StreamConfig
from afstream.timeline import Cue, Moment, Plan, Timeline
from afstream.timeline.cue import Transition
from afstream_kernels import Backend

__all__ = ["Chunk", "Receipt", "Stream", "StreamState"]


class Stream:
    """A running video.

    Args:
        model: an opened model; weights are shared by all streams of it.
        config: how to run it; its field `model` is not used.

    Attributes:
        geometry: the video's size in pixels, latent values and tokens.
        clock: lengths of chunks and frames, for `Timeline.plan`.
        estimate: memory that a GPU needs; None where `open` found no GPU to fit.

    Raises:
        ConfigError: a setting is unknown or impossible here.

    Example:
        >>> stream = Stream.open(seed=1)
        >>> receipt = stream.cue("A red star drifts left over a meadow.")
        >>> chunks = stream.chunks()
        >>> next(chunks).frames.shape
        (9, 64, 64, 3)
        >>> receipt.chunk
        0
    """

    def __init__(self, model: VideoModel, config: StreamConfig | None = None) -> None:
        self.config = config or StreamConfig()
        self.model = model
        self.geometry = model.sized(self.config.size)
        rollout = Rollout.of(
            model.backbone,
            memory_of(self.config, model.family.lengths),
            model.sampler,
            backend=self.config.backend,
            use_graphs=self.config.graphs,
        )
        self.clock = ChunkClock(
            format=model.format, chunk_frames=rollout.policy.lengths.chunk_frames
        )
        device, ahead = model.backbone.device, self.config.ahead
        self._pipeline = ChunkPipeline(
            rollout,
            PromptScheduler(model, self.geometry, self.clock),
            ChunkDecoder(model.vae, decode_stream_on(device)),
            seed=self.config.seed,
            ahead=device.type == "cuda" if ahead is None else ahead,
        )
        self.estimate: MemoryReport | None = None

    @classmethod
    def open(
        cls,
        model: str | ModelSpec | StreamConfig = "pocket",
        **settings: Any,  # noqa: ANN401  the fields of `StreamConfig`, each of its own type
    ) -> Stream:
        """Load a model and make a stream that waits for its first prompt.

        Args:
            model: a model's name, a `ModelSpec`, or a whole `StreamConfig`.
            settings: any other field of `StreamConfig`, such as `seed=7` or `memory="rolling"`.

        Raises:
            ConfigError: a setting is unknown or impossible here, or the model does not fit.
            CheckpointError: there is no such model, or a piece is missing or does not fit.
            PromptError: the model cannot understand a prompt.
        """
        if isinstance(model, StreamConfig):
            config = replace(model, **settings)
        else:
            spec = ModelSpec(name=model) if isinstance(model, str) else model
            config = StreamConfig(model=spec, **settings)
        family = family_of(config.model)
        if config.size:
            family.sized(*config.size)
        config, estimate = fit(config)
        opened = open_model(
            config.model,
            prompts=config.prompts,
            like=find_preset(config.preset, config.model),
            compiled=config.compiled,
        )
        stream = cls(opened, config)
        stream.estimate = estimate
        return stream

    def close(self) -> None:
        """Free the KV cache and drop pending chunks; the stream makes no more of them.

        A running iterator ends. Weights stay in memory as long as the model is referenced.
        """
        self._pipeline.close()

    def __enter__(self) -> Stream:
        """The stream itself, closed when the block is left."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size
        place = f"next chunk {self.next_chunk} at {self.next_s:g} s"
        return (
            f"<Stream of {self.model.name}: {width}x{height} at {self.fps} fps,"
            f" memory {self.policy.name}, {self.backend.name} on {self.model.backbone.device},"
            f" {'closed' if self._pipeline.closed else place}>"
        )

    def fork(self) -> Stream:
        """An independent stream that goes on from here.

        Weights are shared. Prompts that wait for the next chunk stay with this stream; a chunk
        that was submitted and not collected yet is collected by both.

        Raises:
            ConfigError: the stream is closed.
        """
        self._refuse_closed()
        config = replace(self.config, memory=self.policy, junction=None, backend=self.backend.name)
        other = Stream(self.model, config)
        other.estimate = self.estimate
        other._pipeline = self._pipeline.fork(other._pipeline.prompts)
        return other

    @property
    def state(self) -> StreamState:
        """All state of the running stream."""
        return self._pipeline.state

    @property
    def ahead(self) -> bool:
        """Whether each chunk is submitted before the one before it is collected."""
        return self._pipeline.ahead

    @property
    def fps(self) -> int:
        """Video frames a second."""
        return self.model.format.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.geometry.width_px, self.geometry.height_px

    @property
    def policy(self) -> MemoryPolicy:
        """The memory policy."""
        return self._pipeline.rollout.policy

    @property
    def backend(self) -> Backend:
        """The backend of attention and the other kernels."""
        return self._pipeline.rollout.backend

    @property
    def compiled(self) -> bool:
        """Whether torch compiles the layers."""
        return self.model.backbone.is_compiled

    @property
    def graphs(self) -> bool:
        """Whether model calls are captured as CUDA graphs."""
        return self._pipeline.rollout.use_graphs

    @property
    def next_chunk(self) -> int:
        """Index of the next chunk to be submitted: the first that a cue can change."""
        return self.state.chunk

    @property
    def next_s(self) -> float:
        """Time in the video at which that chunk begins, seconds."""
        return self._pipeline.next_s

    def cue(
        self,
        prompt: str | Cue,
        *,
        transition: Transition = "switch",
        blend_s: float = 0.0,
        seed: int | None = None,
        note: str = "",
    ) -> Receipt:
        """Change the prompt with the next chunk that is submitted.

        May be called from any thread, at any time.

        Args:
            prompt: the text to show from now on; or a whole `Cue`, used without the other
                arguments.
            transition: `switch` keeps the scene, `cut` begins a new one.
            blend_s: seconds over which the old prompt turns into the new one.
            seed: seed of the noise from there on; None keeps the one before.
            note: kept in the receipt.

        Returns:
            A receipt that names the chunk once the change took effect.

        Raises:
            PromptError: the model cannot understand the prompt; nothing changes.
            TimelineError: the prompt is empty, or a setting is impossible.
            ConfigError: the stream is closed.
        """
        self._refuse_closed()
        asked_at, now_s = time.perf_counter(), self.next_s
        cue = prompt
        if isinstance(cue, str):
            cue = Cue(
                start=Moment(now_s),
                prompt=cue,
                transition=transition,
                blend_s=blend_s,
                seed=seed,
                note=note,
            )
        return self._pipeline.prompts.ask(cue, now_s=now_s, asked_at=asked_at)

    def play(self, timeline: str | Timeline | Plan) -> Generator[Chunk, None, None]:
        """Play a timeline from its start to its end; every prompt is checked beforehand.

        Nothing is computed beyond its last chunk. A chunk that an earlier iterator submitted and
        did not yield comes first.

        Args:
            timeline: a timeline, its plan, or its text (a single prompt will do).

        Raises:
            PromptError: the model cannot understand a prompt; no frame has been made.
            TimelineError: the timeline cannot be read, or does not fit on the stream's chunks.
            ConfigError: the stream is closed.
        """
        self._refuse_closed()
        if isinstance(timeline, str):
            timeline = Timeline.parse(timeline, source="the text")
        planned = timeline.plan(self.clock) if isinstance(timeline, Timeline) else timeline
        changes = iter(self._pipeline.prompts.planned(planned))
        return self._pipeline.run(lambda: next(changes, None))

    def chunks(self, before: Callable[[], object] | None = None) -> Generator[Chunk, None, None]:
        """Yield chunks without end; give a first prompt with `cue` before taking one.

        Where the stream runs ahead, the next chunk has been submitted when a chunk is yielded, and
        a cue given then changes the one after it. An iterator may be abandoned at any chunk; the
        next one continues after it.

        Args:
            before: called before each chunk is submitted; cues that it gives take effect with it.

        Raises:
            ConfigError: the stream is closed; or, when the first chunk is taken, no prompt was
                given yet or another iterator is taking the chunks.
        """
        self._refuse_closed()

        def changes() -> Sequence[PendingPrompt]:
            if before is not None:
                before()
            return ()

        return self._pipeline.run(changes)

    def _refuse_closed(self) -> None:
        if self._pipeline.closed:
            raise ConfigError("the stream is closed; open another one, or fork() before closing")
