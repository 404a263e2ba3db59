"""A stream that paints plain colours, for tests of what stands around the real one.

It has the shape of `afstream.stream` and needs no torch. Run as a script it is the `afstream`
command with this stream inside.
"""

import pickle
import queue
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afstream.engine.chunk import Receipt
from afstream.errors import CheckpointError, PromptError
from afstream.families.pocket.family import POCKET
from afstream.families.presets import memory_of
from afstream.geometry import ChunkClock, VideoFormat
from afstream.kvcache.policy import MemoryPolicy
from afstream.spec import StreamConfig
from afstream.timeline import Cue, Plan, Timeline

SIZE = (64, 48)
FORMAT = VideoFormat(fps=16, temporal_stride=4, spatial_stride=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTiming:
    switch_ms: float = 1.0
    denoise_ms: float = 20.0
    decode_ms: float = 3.0
    context_ms: float = 5.0
    model_ms: float = 29.0
    total_ms: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    index: int
    segment: int
    prompt: str
    frames: np.ndarray
    latents: None
    start_s: float
    receipts: tuple[Receipt, ...]
    timing: ChunkTiming = field(default_factory=ChunkTiming)
    warm_up: bool = False
    notes: tuple[str, ...] = ()


class Applied(NamedTuple):
    chunk: int
    cue: Cue


class Saved(NamedTuple):
    num_bytes: int
    chunk: int


KEPT = ("state", "_index", "_in_scene", "_frames", "_segment", "_prompt")


MODEL = types.SimpleNamespace(
    name="fake",
    details={"sha256": "0"},
    identity={"name": "fake", "sha256": "0"},
    backbone=types.SimpleNamespace(device="cpu", dtype="torch.float32"),
)


class Checked(NamedTuple):
    config: StreamConfig
    model: types.SimpleNamespace
    size: tuple[int, int]
    clock: ChunkClock


def check(config: StreamConfig, cues: Sequence[Cue] = ()) -> Checked:
    """Only the model's name; what a prompt is refused for is found by the stream."""
    name = config.model.name
    if name != "pocket":
        raise CheckpointError(f"there is no model {name!r}; give 'pocket'")
    return Checked(config, MODEL, SIZE, Stream.clock)


class Stream:
    """Colours depend on prompt, seed and frame; prompts with the word 'wug' are not understood."""

    clock = ChunkClock(format=FORMAT, chunk_frames=3)
    fps = clock.fps
    chunk_s = 0.0
    size = SIZE
    backend = types.SimpleNamespace(name="sdpa")
    compiled = False
    threads = 1
    graphs = False
    ahead = False
    pays_to_warm_up = False
    estimate = None

    policy: MemoryPolicy

    # as small as can be; a state is a few fields
    state_bytes = 1000

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        history: list[Applied] = []
        self.state = types.SimpleNamespace(seed=config.seed, history=history)
        self.model = MODEL
        self._requests: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._index = self._in_scene = self._frames = 0
        self._segment = -1
        self._prompt = ""

    @classmethod
    def open(
        cls,
        given: "Checked | StreamConfig",
    ) -> "Stream":
        checked = given if isinstance(given, Checked) else check(given)
        stream = cls(checked.config)
        stream.policy = memory_of(checked.config, POCKET.lengths)
        return stream

    def cue(self, cue: Cue) -> Receipt:
        here = self.next_s if cue.start.counts_latents else cue.start.in_seconds(self.clock)
        receipt = self._checked(Receipt(cue=cue, requested_s=here))
        self._requests.put(receipt)
        return receipt

    def save(self, path: Path) -> Saved:
        kept = {name: value for name, value in vars(self).items() if name in KEPT}
        path.write_bytes(pickle.dumps(kept))
        return Saved(path.stat().st_size, self._index)

    def load(self, path: Path, *, fits: Callable[[int, list[Applied]], bool]) -> None:
        try:
            kept = pickle.loads(path.read_bytes())
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{path} is damaged; remove it") from error
        if not fits(kept["_index"], kept["state"].history):
            raise CheckpointError(f"{path} was saved on another way")
        vars(self).update(kept)

    def play(self, timeline: Timeline | Plan, *, from_chunk: int = 0) -> Iterator[Chunk]:
        plan = timeline.plan(self.clock) if isinstance(timeline, Timeline) else timeline
        due = {
            planned.chunk: self._checked(Receipt(cue=planned.cue, requested_s=planned.requested_s))
            for planned in plan.cues
        }
        return (
            self._next([due[index]] if index in due else [])
            for index in range(from_chunk, plan.num_chunks)
        )

    @property
    def next_chunk(self) -> int:
        return self._index

    @property
    def position(self) -> int:
        return self._index

    @property
    def next_s(self) -> float:
        return self._frames / self.fps

    def chunks(self, before: Callable[[], object] | None = None) -> Iterator[Chunk]:
        made: deque[Chunk] = deque()
        while True:
            while not made or (self.ahead and made[0].index and len(made) == 1):
                if before is not None:
                    before()
                waiting: list[Receipt] = []
                while not self._requests.empty():
                    waiting.append(self._requests.get())
                made.append(self._next(waiting))
            yield made.popleft()

    def _checked(self, receipt: Receipt) -> Receipt:
        if "wug" in receipt.prompt:
            raise PromptError(f"the model does not know 'wug' in {receipt.prompt!r}; it knows ball")
        return receipt

    def _next(self, receipts: list[Receipt]) -> Chunk:
        time.sleep(self.chunk_s)
        for receipt in receipts:
            receipt.chunk = self._index
            receipt.superseded = receipt is not receipts[-1]
            receipt.switch_ms = 31.0
            if receipt.seed is not None:
                self.state.seed = receipt.seed
        if receipts:
            cue = replace(receipts[-1].cue, seed=self.state.seed)
            self.state.history.append(Applied(self._index, cue))
            self._segment += 1
            self._prompt = receipts[-1].prompt
            if receipts[-1].transition == "cut":
                self._in_scene = 0
        count = self.clock.num_video_frames(self._in_scene)
        noise = np.random.default_rng([self.state.seed, self._index, *self._prompt.encode()])
        width, height = SIZE
        frames = np.empty((count, height, width, 3), np.uint8)
        frames[:] = noise.integers(0, 256, 3, np.uint8)
        chunk = Chunk(
            index=self._index,
            segment=self._segment,
            prompt=self._prompt,
            frames=frames,
            latents=None,
            start_s=self._frames / self.fps,
            receipts=tuple(receipts),
        )
        self._index += 1
        self._in_scene += 1
        self._frames += count
        return chunk


def as_module() -> types.ModuleType:
    """What to put in the place of `afstream.stream`."""
    module = types.ModuleType("afstream.stream")
    module.__dict__.update(
        Stream=Stream, Chunk=Chunk, Receipt=Receipt, Checked=Checked, check=check
    )
    return module


if __name__ == "__main__":
    Stream.chunk_s = float(sys.argv.pop(1))
    sys.modules["afstream.stream"] = as_module()
    from afstream_cli.app import main

    main()
