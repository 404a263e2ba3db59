"""Runs a stream under load and measures it, whatever its length."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afstream.bench.load import Load
from afstream.bench.machine import (
    Machine,
    peak_device_bytes,
    peak_resident_bytes,
    resident_bytes,
)
from afstream.bench.result import FirstFrame, Measurement, Rates
from afstream.bench.series import Series, Stretch, Stretches, largest
from afstream.engine.chunk import ChunkTiming
from afstream.stream import Chunk, Stream

Consumer = Callable[[NDArray[np.uint8]], None]

PARTS = ("denoise", "recache", "context", "decode", "total", "consume", "all")
BACKBONE_PARTS = ("denoise", "recache", "context")
WARM_STARTS = 3


def discard(frames: NDArray[np.uint8]) -> None:
    """Ignore the frames [N, H, W, 3]."""


class Meter:
    """Opens a stream and measures it while its chunks are made.

    Time that the caller spends between two chunks is not counted, so a progress bar does not
    disturb the measurement; work that is to count belongs in the consumer.

    Example:
        >>> meter = Meter(Load(duration_s=3.0))
        >>> for chunk in meter.run():
        ...     pass
        >>> meter.result().frames
        48

    Args:
        load: what to measure.

    Attributes:
        load: what is measured.
        stream: the open stream.
    """

    def __init__(self, load: Load) -> None:
        began = time.perf_counter()
        self.stream = Stream.open(load.stream)
        if self.stream.pays_to_warm_up:
            # captures in mid-stream would be measured as stalls; here they are part of opening
            self.stream.warm_up()
        self._open_ms = _since_ms(began)
        self.load = load
        self._device = self.stream.model.backbone.device
        self._machine = Machine.here(self._device)
        self._warm_up_device_bytes: int | None = None
        self._cold_ms = self._warm_up_ms = 0.0
        self._warm_ms: float | None = None
        self._switches = Series()
        self._parts = {part: Series() for part in PARTS}
        self._model_ms = 0.0
        self._frames = 0
        self._cpu_s = 0.0
        self._stretches = Stretches(load.stretch_s)

    def run(self, consume: Consumer = discard) -> Iterator[Chunk]:
        """Make the video chunk by chunk; may be stopped between two chunks.

        Args:
            consume: given the frames [N, H, W, 3] of every chunk; its time is measured.
        """
        stream, load = self.stream, self.load
        chunks = stream.chunks()
        segment, end_s = 0, 0.0
        stream.cue(load.prompt(0))
        while end_s < load.duration_s:
            began, cpu_began = time.perf_counter(), time.process_time()
            if load.segment_at(end_s) > segment:
                segment = load.segment_at(end_s)
                stream.cue(load.prompt(segment))
            chunk = next(chunks)
            made_ms = _since_ms(began)
            consume(chunk.frames)
            consumed_ms = _since_ms(began) - made_ms
            # on a GPU this waits for the rest of the chunk's work, which counts as well
            timing = chunk.timing
            all_ms = _since_ms(began)
            device_bytes = peak_device_bytes(self._device)
            if chunk.warm_up:
                self._cold_ms = self._cold_ms or made_ms
                self._warm_up_ms += made_ms
                self._warm_up_device_bytes = largest(self._warm_up_device_bytes, device_bytes)
            else:
                self._cpu_s += time.process_time() - cpu_began
                self._count(chunk, timing, consumed_ms, all_ms, device_bytes)
            end_s = chunk.start_s + len(chunk.frames) / stream.fps
            yield chunk
        self._warm_ms = statistics.median(self._cut_ms(chunks) for _ in range(WARM_STARTS))

    def result(self) -> Measurement:
        """The measurement so far."""
        parts, wall_ms = self._parts, self._parts["all"].total
        end_to_end = _per_s(self._frames, wall_ms)
        stretches = self._stretches.read()
        return Measurement(
            load=self.load,
            machine=self._machine,
            model=describe_model(self.stream),
            size=self.stream.size,
            fps=self.stream.fps,
            chunks=parts["all"].count,
            frames=self._frames,
            wall_s=round(wall_ms / 1000, 6),
            cpu_s=round(self._cpu_s, 3),
            first_frame=FirstFrame(
                open_ms=self._open_ms,
                cold_ms=self._cold_ms,
                warm_up_ms=self._warm_up_ms,
                warm_ms=self._warm_ms,
            ),
            switch_ms=self._switches.spread(),
            parts_ms={part: series.spread() for part, series in parts.items()},
            rates=Rates(
                denoise=_per_s(self._frames, sum(parts[part].total for part in BACKBONE_PARTS)),
                decode=_per_s(self._frames, parts["decode"].total),
                end_to_end=end_to_end,
                times_real_time=round(end_to_end / self.stream.fps, 3),
            ),
            # a stream that runs ahead began its first timed chunk in the time of the one before
            outside_model=max(0.0, 1 - self._model_ms / wall_ms) if wall_ms else 0.0,
            in_consumer=parts["consume"].total / wall_ms if wall_ms else 0.0,
            resident_bytes=peak_resident_bytes(),
            device_bytes=largest(
                self._warm_up_device_bytes, *(stretch.device_bytes for stretch in stretches)
            ),
            memory_estimate=self.stream.estimate and self.stream.estimate.as_data(),
            stretches=stretches,
            complete=self._warm_ms is not None,
        )

    def _count(
        self,
        chunk: Chunk,
        timing: ChunkTiming,
        consumed_ms: float,
        all_ms: float,
        device_bytes: int | None,
    ) -> None:
        """Add a chunk that was made and consumed."""
        spent = {
            "denoise": timing.denoise_ms,
            "context": timing.context_ms,
            "decode": timing.decode_ms,
            "total": timing.total_ms,
            "consume": consumed_ms,
            "all": all_ms,
        }
        if chunk.receipts:
            spent["recache"] = timing.switch_ms
        for part, ms in spent.items():
            self._parts[part].add(ms)
        for receipt in chunk.receipts:
            self._switches.add(receipt.switch_ms or 0.0)
        self._model_ms += timing.model_ms
        self._frames += len(chunk.frames)
        self._stretches.add(
            Stretch(
                start_s=chunk.start_s,
                frames=len(chunk.frames),
                wall_s=all_ms / 1000,
                slowest_chunk_ms=all_ms,
                resident_bytes=resident_bytes(),
                device_bytes=device_bytes,
            )
        )

    def _cut_ms(self, chunks: Iterator[Chunk]) -> float:
        """Milliseconds from the request of a fresh scene to its first frames."""
        began = time.perf_counter()
        receipt = self.stream.cue(self.load.prompt(0), transition="cut")
        # a chunk that was submitted before comes first
        while receipt not in next(chunks).receipts:
            pass
        return _since_ms(began)


def describe_model(stream: Stream) -> dict[str, Any]:
    """The model of a stream and how it runs, as plain data."""
    backbone = stream.model.backbone
    return {
        "name": stream.model.name,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "memory": stream.policy.name,
        "backend": stream.backend.name,
        "compiled": stream.compiled,
        "graphs": stream.graphs,
        "ahead": stream.ahead,
        "backbone_parameters": sum(weight.numel() for weight in backbone.parameters()),
        # Results are shared, and must not show paths of this machine.
        **{key: text for key, text in stream.model.details.items() if key != "path"},
    }


def _since_ms(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


def _per_s(frames: int, milliseconds: float) -> float:
    return round(1000 * frames / milliseconds, 2) if milliseconds else 0.0
