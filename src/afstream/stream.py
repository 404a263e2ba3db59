"""A stream: prompts in at any time, decoded video out chunk by chunk, for as long as wanted.

Generating, benchmarking and evaluating all iterate over a `Stream`; the chunks are submitted and
collected by `afstream.engine.pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from afstream.checking import Checked, check
from afstream.engine.chunk import Chunk, Receipt
from afstream.engine.decode import ChunkDecoder, decode_stream_on
from afstream.engine.facts import StreamFacts
from afstream.engine.pipeline import ChunkPipeline
from afstream.engine.rollout import Rollout
from afstream.engine.saved.files import SavedState
from afstream.engine.saved.kind import StreamKind
from afstream.engine.saved.states import SavedStates
from afstream.engine.scheduler import PendingPrompt, PromptScheduler
from afstream.engine.state import Fits, StreamState
from afstream.engine.warm_up import warm_up
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.opening import open_model
from afstream.families.presets import find_preset, memory_of
from afstream.geometry import ChunkClock
from afstream.memory_plan.report import MemoryReport
from afstream.spec import ModelSpec, StreamConfig
from afstream.timeline import Cue, Moment, Plan, Timeline
from afstream.timeline.cue import Transition

__all__ = ["Checked", "Chunk", "Receipt", "SavedState", "Stream", "StreamState", "check"]


class Stream(StreamFacts):
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
        self._states = SavedStates(
            self._pipeline, StreamKind(model, self.geometry, self._pipeline.rollout)
        )
        self.estimate: MemoryReport | None = None

    @classmethod
    def open(
        cls,
        model: str | ModelSpec | StreamConfig | Checked = "pocket",
        **settings: Any,  # noqa: ANN401  the fields of `StreamConfig`, each of its own type
    ) -> Stream:
        """Load a model and make a stream that waits for its first prompt.

        Args:
            model: a model's name, a `ModelSpec`, a whole `StreamConfig`, or what `check` made of
                one.
            settings: any other field of `StreamConfig`, such as `seed=7` or `memory="rolling"`.

        Raises:
            ConfigError: a setting is unknown or impossible here, or the model does not fit.
            CheckpointError: there is no such model, or a piece is missing or does not fit.
            PromptError: the model cannot understand a prompt.
        """
        if isinstance(model, Checked) and not settings:
            checked = model
        else:
            checked = check(replace(_config_of(model), **settings))
        config = checked.config
        opened = open_model(
            config.model,
            prompts=config.prompts,
            like=find_preset(config.preset, config.model),
            compiled=config.compiled,
        )
        stream = cls(opened, config)
        stream.estimate = checked.estimate
        return stream

    def warm_up(self) -> None:
        """Rehearse, so that no chunk of the video comes late for what is done only once.

        Makes some ten chunks that nobody sees: kernels are compiled and loaded, every length of the
        window is met, CUDA graphs are captured. Frames are the same without it. It pays on a GPU
        or with compiled layers, before a video that somebody watches while it is made; a film
        that is only written takes longer by it. `afstream bench`, and `generate` with prompts
        from standard input, do it on a GPU; nothing else does.

        Raises:
            ConfigError: the stream is closed, or has begun.
        """
        self._refuse_closed()
        if self.state.rollout is not None:
            raise ConfigError("the stream has begun; warm it up before its first chunk is made")
        warm_up(self._pipeline)

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
        other._states = self._states.fork(other._pipeline)
        return other

    def save(self, path: str | PathLike[str]) -> SavedState:
        """Write all that decides the chunks to come into one file, whole or not at all.

        May be called from any thread, also while an iterator is suspended. Cues that wait for
        their chunk are not saved.

        Args:
            path: replaced if it exists; a safetensors file, whatever it is called.

        Raises:
            OutputError: it cannot be written; an old file there is left as it was.
            ConfigError: the stream is closed, or its decoder's state cannot be saved.
        """
        self._refuse_closed()
        return self._states.save(path)

    def load(self, path: str | PathLike[str], *, fits: Fits | None = None) -> None:
        """Go on from a state that a stream of the same model and settings has saved.

        Frames are those of that stream, bit for bit. Cues that wait for their chunk stay.

        Args:
            path: the file.
            fits: told the next chunk and the prompt changes before it, whether that is wanted.

        Raises:
            CheckpointError: the file is missing, damaged, of another stream, or does not fit;
                nothing changes.
            ConfigError: the stream is closed, or an iterator has not come to its end: close it
                first.
        """
        self._refuse_closed()
        self._states.load(path, fits=fits)

    def rewind(self, chunk: int) -> None:
        """Go back to just before a chunk; the prompt changes from there on are forgotten.

        The nearest earlier state that this stream saved or loaded is taken up, or its scene's
        beginning, and the chunks in between are computed again. Cues that wait for their chunk
        stay. Where this is interrupted, the stream stands at an earlier chunk.

        Args:
            chunk: 0 to `position`.

        Raises:
            ConfigError: there is no such chunk, the stream is closed, or an iterator has not come
                to its end: close it first.
            PromptError: the text encoder knows a prompt no more; nothing changes.
        """
        self._refuse_closed()
        self._states.rewind(chunk)

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

    def play(
        self, timeline: str | Timeline | Plan, *, from_chunk: int = 0
    ) -> Generator[Chunk, None, None]:
        """Play a timeline to its end; every prompt is checked beforehand.

        Nothing is computed beyond its last chunk. A chunk that an earlier iterator submitted and
        did not yield comes first.

        Args:
            timeline: a timeline, its plan, or its text (a single prompt will do).
            from_chunk: its first chunk to be yielded, which must be the stream's `position`; 0
                plays it from its start, wherever the stream stands.

        Raises:
            PromptError: the model cannot understand a prompt; no frame has been made.
            TimelineError: the timeline cannot be read, or does not fit on the stream's chunks.
            ConfigError: the stream is closed, or stands at another chunk.
        """
        self._refuse_closed()
        if isinstance(timeline, str):
            timeline = Timeline.parse(timeline, source="the text")
        planned = timeline.plan(self.clock) if isinstance(timeline, Timeline) else timeline
        return self._pipeline.play(planned, from_chunk)

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


def _config_of(model: str | ModelSpec | StreamConfig | Checked) -> StreamConfig:
    """The config that a stream is opened with."""
    if isinstance(model, Checked):
        return model.config
    if isinstance(model, StreamConfig):
        return model
    return StreamConfig(model=ModelSpec(name=model) if isinstance(model, str) else model)
