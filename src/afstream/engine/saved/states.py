"""Saves and loads the state of one stream, and takes it back to an earlier chunk."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from afstream.engine.decode import PendingChunk
from afstream.engine.pipeline import ChunkPipeline
from afstream.engine.saved.files import (
    Content,
    SavedState,
    read_layout,
    read_state,
    state_bytes,
    unusable,
    write_state,
)
from afstream.engine.saved.kind import StreamKind
from afstream.engine.scheduler import PendingPrompt
from afstream.engine.state import Blend, Change, Fits, RolloutState, StreamState
from afstream.engine.stopwatch import Stopwatch
from afstream.errors import AfstreamError, CheckpointError, ConfigError
from afstream.timeline.plan import Scene

# what every chunk times
LAPS = ("switch", "denoise", "decode", "context")


class SavedStates:
    """The states of one stream, and the files that hold some of them.

    Args:
        pipeline: has the present state.
        kind: what the stream is.
        paths: of states that it may go back to.
    """

    def __init__(
        self, pipeline: ChunkPipeline, kind: StreamKind, paths: dict[Path, None] | None = None
    ) -> None:
        self._pipeline = pipeline
        self._kind = kind
        # a set that keeps its order
        self._paths = paths or {}

    def fork(self, pipeline: ChunkPipeline) -> SavedStates:
        """Those of a fork, which may go back to the same files."""
        return SavedStates(pipeline, self._kind, dict(self._paths))

    @property
    def num_bytes(self) -> int:
        """See `Stream.state_bytes`."""
        with self._pipeline.changing:
            return state_bytes(self._pipeline.state, self._kind)

    def save(self, path: str | os.PathLike[str]) -> SavedState:
        """See `Stream.save`."""
        goal = Path(path).absolute()
        with torch.inference_mode(), self._pipeline.changing:
            self._wait()
            saved = write_state(Path(path), self._pipeline.state, self._kind)
        self._paths[goal] = None
        return saved

    def load(self, path: str | os.PathLike[str], *, fits: Fits | None = None) -> None:
        """See `Stream.load`."""
        goal = Path(path).absolute()
        with torch.inference_mode(), self._pipeline.alone(), self._pipeline.changing:
            self._restore(Path(path), fits)
        self._paths[goal] = None

    def rewind(self, chunk: int) -> None:
        """See `Stream.rewind`."""
        pipeline = self._pipeline
        with torch.inference_mode(), pipeline.alone(), pipeline.changing:
            state = pipeline.state
            # whoever calls `Stream.rewind` may have no type checker
            whole = type(chunk) is int
            if not whole or not 0 <= chunk <= state.position:
                raise ConfigError(
                    f"the stream cannot be rewound to chunk {chunk!r}; it has yielded"
                    f" {state.position} chunks: give a whole number, 0 to {state.position}"
                )
            if chunk == state.chunk:
                return
            history = [change for change in state.history if change.chunk < chunk]
            changes = self._go_back(chunk, history)
            # a saved state may have chunks that are earlier still, and were yielded
            pipeline.state.pending.clear()
            while pipeline.state.chunk < chunk:
                submitted = pipeline.submit(changes.get(pipeline.state.chunk, ()))
                pipeline.decoder.stream.wait(submitted.done)

    def _go_back(self, chunk: int, history: list[Change]) -> dict[int, list[PendingPrompt]]:
        """Restore the nearest state before a chunk, and return the prompt changes from there on."""
        pipeline = self._pipeline
        fresh = self._scene_start(history)
        for start, path in self._on_the_way(chunk, history):
            if start <= fresh.chunk:
                break
            # before anything changes: the text encoder may not know a prompt any more
            changes = pipeline.prompts.again([one for one in history if one.chunk >= start])
            with suppress(CheckpointError):
                self._restore(path)
                return changes
        changes = pipeline.prompts.again([one for one in history if one.chunk >= fresh.chunk])
        self._wait()
        pipeline.state = fresh
        return changes

    def _on_the_way(self, chunk: int, history: list[Change]) -> list[tuple[int, Path]]:
        """Files with states on the way to a chunk, the nearest first, each with its own chunk."""
        found: list[tuple[int, Path]] = []
        for path in self._paths:
            # files that are gone or damaged are passed over
            with suppress(AfstreamError):
                layout = read_layout(path)
                until = [change for change in history if change.chunk < layout.chunk]
                same = layout.first_seed == self._pipeline.state.first_seed
                if same and layout.chunk <= chunk and layout.changes() == until:
                    found.append((layout.chunk, path))
        return sorted(found, key=lambda each: -each[0])

    def _scene_start(self, history: list[Change]) -> StreamState:
        """The state before the last cut, after which nothing before it counts; or the first one."""
        state = StreamState.begin(self._pipeline.state.first_seed)
        scene = Scene(clock=self._pipeline.prompts.clock)
        for segment, (chunk, cue) in enumerate(history):
            if segment and cue.transition == "cut":
                frame = scene.frame_of_chunk(chunk)
                scene = Scene(clock=scene.clock, chunk=chunk, video_frame=frame)
                before = history[segment - 1].cue
                state = replace(
                    state,
                    chunk=chunk,
                    video_frame=frame,
                    segment=segment - 1,
                    history=history[:segment],
                    prompt=before.prompt,
                    seed=before.seed or 0,
                )
        return state

    def _restore(self, path: Path, fits: Fits | None = None) -> None:
        """Replace the state by a saved one; see `Stream.load`."""
        pipeline, kind = self._pipeline, self._kind
        rollout = kind.rollout
        content = read_state(path, kind)
        if fits and not fits(content.layout.chunk, content.history):
            raise CheckpointError(f"{path} was saved on the way of other prompts or another seed")
        blank = torch.zeros(kind.shape, dtype=rollout.latent_dtype, device=rollout.model.device)
        try:
            decoder = pipeline.decoder.restore(content.decoder, blank)
        except ValueError as error:
            raise unusable(path, error) from error
        self._wait()
        # the memory of the old state is free before that of the new one is taken
        pipeline.prompts.spare = None
        pipeline.state = StreamState.begin(content.layout.first_seed)
        pipeline.state = self._made(content, decoder)

    def _made(self, content: Content, decoder: object) -> StreamState:
        layout, values = content.layout, content.values
        blend = layout.blend and Blend(
            start=values["blend"][0],
            goal=values["blend"][1],
            chunks=layout.blend.chunks,
            done=layout.blend.done,
        )
        return StreamState(
            seed=layout.seed,
            first_seed=layout.first_seed,
            history=content.history,
            rollout=self._scene(content),
            decoder=decoder,
            chunk=layout.chunk,
            segment=layout.segment,
            video_frame=layout.video_frame,
            prompt=layout.prompt,
            embeds=values["embeds"],
            blend=blend,
            pending=self._pending(content),
        )

    def _scene(self, content: Content) -> RolloutState | None:
        scene = content.layout.scene
        if scene is None or content.text is None or content.anchors is None:
            return None
        state = self._kind.rollout.start(content.text, self._kind.shape)
        state.cache.restore(scene.slot_frames, content.anchors, content.held)
        state.recent.extend(content.values["recent"])
        state.frame = scene.frame
        return state

    def _pending(self, content: Content) -> deque[PendingChunk]:
        """Pending chunks, whose work is done and takes no time."""
        stream, layout = self._pipeline.decoder.stream, content.layout
        watch = Stopwatch(stream.event)
        for lap in LAPS:
            with watch.lap(lap):
                pass
        done = stream.finish()
        stream.wait(done)
        return deque(
            PendingChunk(
                index=index,
                segment=saved.segment,
                prompt=saved.prompt,
                latents=latents,
                start_s=saved.start_s,
                receipts=tuple(receipt.receipt(index) for receipt in saved.receipts),
                began=time.perf_counter(),
                frames=frames,
                is_finite=latents.isfinite().all().cpu(),
                ready=done,
                watch=watch,
                before=None,
                done=done,
                warm_up=False,
            )
            for index, (saved, (latents, frames)) in enumerate(
                zip(layout.pending, content.values["pending"], strict=True), layout.position
            )
        )

    def _wait(self) -> None:
        """Wait until all work that was submitted is done."""
        done = self._pipeline.state.done
        if done is not None:
            self._pipeline.decoder.stream.wait(done)
