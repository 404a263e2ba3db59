"""A stream that paints plain colours, for tests of what stands around the real one.

It has the shape of `afstream.stream` and needs no torch. Run as a script it is the `afstream`
command with this stream inside.
"""

import queue
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from afstream.errors import CheckpointError, PromptError
from afstream.families.presets import LENGTHS
from afstream.geometry import chunk_video_frames
from afstream.kvcache.memories import memory_policy
from afstream.spec import ModelSpec
from afstream.timeline import Plan, Timeline

SIZE = (64, 48)


@dataclass(slots=True, kw_only=True)
class Receipt:
    prompt: str
    transition: str = "switch"
    blend_chunks: int = 0
    seed: int | None = None
    note: str = ""
    chunk: int | None = None
    superseded: bool = False
    switch_ms: float | None = None


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


class Stream:
    """Colours depend on prompt, seed and frame; prompts with the word 'wug' are not understood."""

    fps = 16
    chunk_s = 0.0
    size = SIZE
    backend = "sdpa"
    compiled = False
    graphs = False
    ahead = False
    estimate = None

    def __init__(self, seed: int, policy: object) -> None:
        self.seed = seed
        self.model = types.SimpleNamespace(
            name="fake",
            details={"sha256": "0"},
            backbone=types.SimpleNamespace(device="cpu", dtype="torch.float32"),
        )
        self._requests: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._index = self._in_scene = self._frames = 0
        self._segment = -1
        self._prompt = ""

    @classmethod
    def open(
        cls,
        model: ModelSpec | str = "pocket",
        *,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        memory: str | None = None,
        junction: str | None = None,
        preset: str | None = None,
        backend: str | None = None,
        compiled: bool = False,
        graphs: bool = True,
        prompts: Sequence[str] = (),
        ahead: bool | None = None,
        gpu_memory: int | None = None,
    ) -> "Stream":
        name = model if isinstance(model, str) else model.name
        if name != "pocket":
            raise CheckpointError(f"there is no model {name!r}; give 'pocket'")
        return cls(seed, memory_policy(memory or "anchor", LENGTHS, junction=junction))

    def cue(
        self,
        prompt: str,
        *,
        transition: str = "switch",
        blend_s: float = 0.0,
        seed: int | None = None,
        note: str = "",
    ) -> Receipt:
        receipt = self._checked(Receipt(prompt=prompt, transition=transition, seed=seed, note=note))
        self._requests.put(receipt)
        return receipt

    def play(self, timeline: Timeline | Plan) -> Iterator[Chunk]:
        plan = timeline.plan() if isinstance(timeline, Timeline) else timeline
        due = {
            planned.chunk: self._checked(
                Receipt(
                    prompt=planned.cue.prompt,
                    transition=planned.cue.transition,
                    seed=planned.cue.seed,
                )
            )
            for planned in plan.cues
        }
        return (
            self._next([due[index]] if index in due else []) for index in range(plan.num_chunks)
        )

    @property
    def next_chunk(self) -> int:
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
                self.seed = receipt.seed
        if receipts:
            self._segment += 1
            self._prompt = receipts[-1].prompt
            if receipts[-1].transition == "cut":
                self._in_scene = 0
        count = chunk_video_frames(self._in_scene)
        noise = np.random.default_rng([self.seed, self._index, *self._prompt.encode()])
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
    module.__dict__.update(Stream=Stream, Chunk=Chunk, Receipt=Receipt)
    return module


if __name__ == "__main__":
    Stream.chunk_s = float(sys.argv.pop(1))
    sys.modules["afstream.stream"] = as_module()
    from afstream_cli.app import main

    main()
