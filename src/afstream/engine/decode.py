"""From clean latents to frames in the host's memory, on a GPU beside the next denoising.

A lane says where that is done. On a GPU it is a CUDA stream of its own, so that the main stream
goes on with the context pass and the next chunk as soon as the last denoise step is done. The
host waits once for a chunk, when it hands it out.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from afstream.engine.chunk import Chunk, ChunkTiming, Receipt
from afstream.engine.stopwatch import Mark, Stopwatch, gpu_mark, host_mark, span_ms
from afstream.model.protocols import VideoDecoder


def decode_pictures(
    decoder: VideoDecoder,
    latents: Tensor,
    state: Any,  # noqa: ANN401
) -> tuple[Tensor, Any]:
    """Latents [1, F, C, h, w] as pictures, uint8 [N, H, W, 3], and the decoder's new state."""
    video, after = decoder.decode(latents, state)
    levels = ((video[0].float() + 1) * 127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), after


class Lane(Protocol):
    """Where chunks are decoded, relative to the main stream, on which they are denoised."""

    def mark(self) -> Mark:
        """Set a mark on the stream that is current."""
        ...

    def decoding(self, latents: Tensor) -> AbstractContextManager[None]:
        """Put what is launched in here on the lane, behind all that the latents wait for."""
        ...

    def to_host(self, pictures: Tensor) -> Tensor:
        """Copy to the host, from within `decoding`; there once a later mark is reached."""
        ...

    def finish(self) -> Mark:
        """A mark behind all that lane and main stream were given so far."""
        ...

    def wait(self, mark: Mark) -> None:
        """Make the host wait for a mark."""
        ...


class InTurn:
    """A CPU: everything is done when the call returns."""

    def mark(self) -> Mark:
        """The host's clock."""
        return host_mark()

    def decoding(self, latents: Tensor) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def to_host(self, pictures: Tensor) -> Tensor:
        """They are there."""
        return pictures

    def finish(self) -> Mark:
        """The host's clock."""
        return host_mark()

    def wait(self, mark: Mark) -> None:
        """All is done."""


class SideStream:
    """A CUDA stream beside the one that is current.

    The decoder's state is made and read here only, so its memory needs no further care.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def mark(self) -> Mark:
        """An event on the current stream."""
        return gpu_mark(self._device)

    @contextmanager
    def decoding(self, latents: Tensor) -> Generator[None, None, None]:
        """Behind an event of the main stream, and with the latents' memory held meanwhile."""
        denoised = torch.cuda.Event()
        denoised.record(torch.cuda.current_stream(self._device))
        self._side.wait_event(denoised)
        # the main stream may drop them, and must not get their memory before they are read
        latents.record_stream(self._side)
        with torch.cuda.stream(self._side):
            yield

    def to_host(self, pictures: Tensor) -> Tensor:
        """Into pinned memory, without waiting.

        A block of torch's own for each chunk: it goes to another one only when its tensor is
        gone and the copy is done, and two or three of them serve a whole stream.
        """
        host = torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=True)
        return host.copy_(pictures, non_blocking=True)

    def finish(self) -> Mark:
        """An event on the side stream, behind the frames' copy and the main stream so far.

        The context pass is far shorter than decoding as a rule, so frames hardly ever wait for
        it; and one wait then serves for the frames and for all of the chunk's timings.
        """
        launched = torch.cuda.Event()
        launched.record(torch.cuda.current_stream(self._device))
        self._side.wait_event(launched)
        with torch.cuda.stream(self._side):
            return self.mark()

    def wait(self, mark: Mark) -> None:
        """Until the GPU has reached an event."""
        if isinstance(mark, (int, float)):
            raise TypeError("a GPU never reaches a mark of the host's clock")
        mark.synchronize()


def lane_on(device: torch.device) -> Lane:
    """The lane for a device."""
    return SideStream(device) if device.type == "cuda" else InTurn()


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A chunk that was launched: all is known of it but its pictures and how long it took.

    May be handed out more than once, to a stream and its forks.

    Attributes:
        index: see `Chunk`; segment, prompt, latents, start_s and receipts likewise.
        segment: see `Chunk`.
        prompt: see `Chunk`.
        latents: see `Chunk`.
        start_s: see `Chunk`.
        receipts: see `Chunk`.
        asked: when each of the receipts' changes was asked for, seconds of the host's clock.
        frames: uint8 [N, H, W, 3] in the host's memory, not there before `done`.
        watch: its laps: switch, denoise, decode, context.
        before: when all of the chunk before it was done; None for the first.
        done: when all of it is done.
        warm_up: its launch prepared something that later chunks use.
    """

    index: int
    segment: int
    prompt: str
    latents: Tensor
    start_s: float
    receipts: tuple[Receipt, ...]
    asked: tuple[float, ...]
    frames: Tensor
    watch: Stopwatch
    before: Mark | None
    done: Mark
    warm_up: bool


class Delivery:
    """Decodes chunks on a lane and hands them out.

    Keeps nothing of a stream, so a stream and its forks share one, and with it the lane.

    Args:
        vae: the decoder.
        lane: where it works.
    """

    def __init__(self, vae: VideoDecoder, lane: Lane) -> None:
        self._vae = vae
        self.lane = lane

    def launch(
        self,
        latents: Tensor,
        state: Any,  # noqa: ANN401
        watch: Stopwatch,
    ) -> tuple[Tensor, Any]:
        """Begin to decode a chunk.

        Args:
            latents: [1, c, C, h, w], clean, of the current stream.
            state: the decoder's, None at a scene's start.
            watch: given the lap `decode`.

        Returns:
            Frames, uint8 [N, H, W, 3] on the host, not there before the lane's next
            `finish`, and the decoder's new state.
        """
        with self.lane.decoding(latents):
            with watch.lap("decode"):
                pictures, after = decode_pictures(self._vae, latents, state)
            return self.lane.to_host(pictures), after

    def hand_out(self, flight: InFlight, *, began: float, warm_up: bool) -> Chunk:
        """Wait for a chunk's frames.

        Args:
            flight: the chunk.
            began: when it was asked for, seconds of the host's clock.
            warm_up: what was launched since then prepared something.
        """
        self.lane.wait(flight.done)
        # Into ordinary memory: whoever keeps the frames of a long video keeps no pinned pages,
        # and a fork's frames are its own.
        frames = flight.frames.numpy().copy()
        ended = time.perf_counter()
        for receipt, asked in zip(flight.receipts, flight.asked, strict=True):
            # a fork may have been faster
            if receipt.switch_ms is None:
                receipt.switch_ms = 1000 * (ended - asked)
        return Chunk(
            index=flight.index,
            segment=flight.segment,
            prompt=flight.prompt,
            frames=frames,
            latents=flight.latents,
            start_s=flight.start_s,
            receipts=flight.receipts,
            timing=_timing(flight, total_ms=1000 * (ended - began)),
            warm_up=flight.warm_up or warm_up,
        )


def _timing(flight: InFlight, *, total_ms: float) -> ChunkTiming:
    spent = flight.watch.read_ms()
    # where it began before the chunk before it was done, that time is counted there
    starts = [mark for mark in (flight.watch.began, flight.before) if mark is not None]
    return ChunkTiming(
        switch_ms=spent["switch"],
        denoise_ms=spent["denoise"],
        decode_ms=spent["decode"],
        context_ms=spent["context"],
        model_ms=min(span_ms(start, flight.done) for start in starts),
        total_ms=total_ms,
    )
