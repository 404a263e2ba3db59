"""From clean latents to frames in the host's memory, on a GPU beside the next denoising.

A decode stream says where that is done. On a GPU it is a CUDA stream of its own, so that the main
stream goes on with the context pass and the next chunk as soon as the last denoise step is done.
The host waits once for a chunk, when it is collected.
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
from afstream.engine.stopwatch import Event, Stopwatch, gpu_event, host_event, span_ms
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


class DecodeStream(Protocol):
    """Where chunks are decoded, relative to the main stream, on which they are denoised."""

    def event(self) -> Event:
        """Record an event on the CUDA stream that is current."""
        ...

    def decoding(self, latents: Tensor) -> AbstractContextManager[None]:
        """Run what is in here on this stream, after all that the latents wait for."""
        ...

    def to_host(self, pictures: Tensor) -> Tensor:
        """Copy to the host, from within `decoding`; complete once a later event is reached."""
        ...

    def finish(self) -> Event:
        """Record an event after all work that both streams were given so far."""
        ...

    def wait(self, event: Event) -> None:
        """Make the host wait for an event."""
        ...


class HostDecode:
    """Decoding on the CPU: everything is done when a call returns."""

    def event(self) -> Event:
        """The host's clock."""
        return host_event()

    def decoding(self, latents: Tensor) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def to_host(self, pictures: Tensor) -> Tensor:
        """They are there."""
        return pictures

    def finish(self) -> Event:
        """The host's clock."""
        return host_event()

    def wait(self, event: Event) -> None:
        """All is done."""


class CudaDecodeStream:
    """Decoding on a CUDA stream beside the one that is current.

    The decoder's state is made and read here only, so its memory needs no further care.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def event(self) -> Event:
        """An event on the current stream."""
        return gpu_event(self._device)

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

        Each chunk gets a pinned block from torch's caching allocator, which reuses it after the
        copy completes; two or three of them serve a whole stream.
        """
        host = torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=True)
        return host.copy_(pictures, non_blocking=True)

    def finish(self) -> Event:
        """An event on the side stream, behind the frames' copy and the main stream so far.

        The context pass is far shorter than decoding as a rule, so frames hardly ever wait for
        it; and one wait then serves for the frames and for all of the chunk's timings.
        """
        submitted = torch.cuda.Event()
        submitted.record(torch.cuda.current_stream(self._device))
        self._side.wait_event(submitted)
        with torch.cuda.stream(self._side):
            return self.event()

    def wait(self, event: Event) -> None:
        """Until the GPU has reached an event."""
        if isinstance(event, (int, float)):
            raise TypeError("a GPU never reaches a time of the host's clock")
        event.synchronize()


def decode_stream_on(device: torch.device) -> DecodeStream:
    """The decode stream for a device."""
    return CudaDecodeStream(device) if device.type == "cuda" else HostDecode()


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingChunk:
    """A chunk that was submitted: only its frames and timings are not known yet.

    May be collected more than once, by a stream and its forks.

    Attributes:
        index: see `Chunk`; segment, prompt, latents, start_s and receipts likewise.
        segment: see `Chunk`.
        prompt: see `Chunk`.
        latents: see `Chunk`.
        start_s: see `Chunk`.
        receipts: see `Chunk`.
        began: when it was submitted, seconds of the host's clock.
        frames: uint8 [N, H, W, 3] in the host's memory, not there before `done`.
        watch: its laps: switch, denoise, decode, context.
        before: when all of the chunk before it was done; None for the first.
        done: when all of it is done.
        warm_up: something that later chunks use was prepared for it.
    """

    index: int
    segment: int
    prompt: str
    latents: Tensor
    start_s: float
    receipts: tuple[Receipt, ...]
    began: float
    frames: Tensor
    watch: Stopwatch
    before: Event | None
    done: Event
    warm_up: bool


class ChunkDecoder:
    """Decodes chunks and waits for their frames.

    Keeps no state of a video, so a stream and its forks share one, and with it the decode stream.

    Args:
        vae: the decoder.
        stream: where it decodes.
    """

    def __init__(self, vae: VideoDecoder, stream: DecodeStream) -> None:
        self._vae = vae
        self.stream = stream

    def submit(
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
            Frames, uint8 [N, H, W, 3] on the host, not there before the decode stream's next
            `finish`, and the decoder's new state.
        """
        with self.stream.decoding(latents):
            with watch.lap("decode"):
                pictures, after = decode_pictures(self._vae, latents, state)
            return self.stream.to_host(pictures), after

    def collect(self, pending: PendingChunk, *, began: float, warm_up: bool) -> Chunk:
        """Wait for a chunk's frames.

        Args:
            pending: the chunk.
            began: when it was asked for, seconds of the host's clock.
            warm_up: what was submitted since then prepared something.
        """
        self.stream.wait(pending.done)
        # Into ordinary memory: whoever keeps the frames of a long video keeps no pinned pages,
        # and a fork's frames are its own.
        frames = pending.frames.numpy().copy()
        ended = time.perf_counter()
        for receipt in pending.receipts:
            # a fork may have been faster
            if receipt.switch_ms is None:
                asked_at = pending.began if receipt.asked_at is None else receipt.asked_at
                receipt.switch_ms = 1000 * (ended - asked_at)
        return Chunk(
            index=pending.index,
            segment=pending.segment,
            prompt=pending.prompt,
            frames=frames,
            latents=pending.latents,
            start_s=pending.start_s,
            receipts=pending.receipts,
            timing=_timing(pending, total_ms=1000 * (ended - began)),
            warm_up=pending.warm_up or warm_up,
        )


def _timing(pending: PendingChunk, *, total_ms: float) -> ChunkTiming:
    spent = pending.watch.read_ms()
    # where it began before the chunk before it was done, that time is counted there
    starts = [start for start in (pending.watch.began, pending.before) if start is not None]
    return ChunkTiming(
        switch_ms=spent["switch"],
        denoise_ms=spent["denoise"],
        decode_ms=spent["decode"],
        context_ms=spent["context"],
        model_ms=min(span_ms(start, pending.done) for start in starts),
        total_ms=total_ms,
    )
