"""Decodes latents to frames in host memory, on a GPU while the next chunk is denoised.

A decode stream says where that happens. On a GPU it is a CUDA stream of its own, so that the main
stream goes on with the context pass and the next chunk as soon as the last denoise step is done.
The host waits once for a chunk, when it is collected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from afstream.engine.chunk import Chunk, ChunkTiming, Receipt
from afstream.engine.stopwatch import Event, Stopwatch, gpu_event, host_event, span_ms
from afstream.errors import StreamError
from afstream.model.protocols import VideoDecoder

# priority of a CUDA stream whose kernels go before those of others
FIRST = -1


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
    """Where chunks are decoded; they are denoised on the main stream."""

    def event(self) -> Event:
        """Record an event on the CUDA stream that is current."""
        ...

    def decoding(self, latents: Tensor) -> AbstractContextManager[None]:
        """Run the block on this stream, once the latents are ready."""
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
    """Decodes on the CPU, where all work is done when a call returns."""

    def event(self) -> Event:
        """The present time of the host's clock."""
        return host_event()

    def decoding(self, latents: Tensor) -> AbstractContextManager[None]:
        """Run the block at once: the latents are ready."""
        return nullcontext()

    def to_host(self, pictures: Tensor) -> Tensor:
        """Return the pictures, which are in host memory already."""
        return pictures

    def finish(self) -> Event:
        """The present time of the host's clock."""
        return host_event()

    def wait(self, event: Event) -> None:
        """Return at once: all work is done."""


class CudaDecodeStream:
    """Decodes on a CUDA stream of its own, in parallel with the current one.

    The decoder's state is made and read on this stream only, so it needs no synchronization.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # before the next chunk's work, so that frames come out as early as they can
        self._side = torch.cuda.Stream(device, priority=FIRST)

    def event(self) -> Event:
        """Record an event on the current stream."""
        return gpu_event(self._device)

    @contextmanager
    def decoding(self, latents: Tensor) -> Generator[None, None, None]:
        """Run the block after the main stream's work so far; the latents' memory is kept."""
        denoised = torch.cuda.Event()
        denoised.record(torch.cuda.current_stream(self._device))
        self._side.wait_event(denoised)
        # the main stream may free the latents, but must not reuse their memory before they are read
        latents.record_stream(self._side)
        with torch.cuda.stream(self._side):
            yield

    def to_host(self, pictures: Tensor) -> Tensor:
        """Copy to pinned memory without waiting.

        Each chunk gets a pinned block from torch's caching allocator, which reuses it after the
        copy completes; two or three of them serve a whole stream.
        """
        host = torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=True)
        return host.copy_(pictures, non_blocking=True)

    def finish(self) -> Event:
        """Record an event on the side stream, after the main stream's work so far as well."""
        submitted = torch.cuda.Event()
        submitted.record(torch.cuda.current_stream(self._device))
        self._side.wait_event(submitted)
        with torch.cuda.stream(self._side):
            return self.event()

    def wait(self, event: Event) -> None:
        """Make the host wait until the GPU has reached an event."""
        if isinstance(event, (int, float)):
            raise TypeError("cannot wait on a GPU for a time of the host's clock")
        event.synchronize()


def decode_stream_on(device: torch.device) -> DecodeStream:
    """The decode stream for a device."""
    return CudaDecodeStream(device) if device.type == "cuda" else HostDecode()


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingChunk:
    """A submitted chunk, whose frames and timings are not known yet.

    May be collected more than once, by a stream and its forks.

    Attributes:
        index: see `Chunk`; segment, prompt, latents, start_s and receipts likewise.
        segment: see `Chunk`.
        prompt: see `Chunk`.
        latents: see `Chunk`.
        start_s: see `Chunk`.
        receipts: see `Chunk`.
        began: when it was submitted, seconds of the host's clock.
        frames: uint8 [N, H, W, 3] in host memory, valid once `ready` is reached.
        is_finite: whether the latents are, bool [] in host memory, likewise.
        ready: reached when the frames are in host memory, whatever the context pass has left to do.
        watch: times its laps switch, denoise, decode and context.
        before: `done` of the chunk before it; None for the first.
        done: reached when all of its work is done.
        warm_up: whether something that later chunks reuse was prepared for it.
        notes: see `Chunk`.
    """

    index: int
    segment: int
    prompt: str
    latents: Tensor
    start_s: float
    receipts: tuple[Receipt, ...]
    began: float
    frames: Tensor
    is_finite: Tensor
    ready: Event
    watch: Stopwatch
    before: Event | None
    done: Event
    warm_up: bool
    notes: tuple[str, ...] = ()


class Decoding(NamedTuple):
    """A chunk that is being decoded.

    Attributes:
        frames: uint8 [N, H, W, 3] on the host, valid once `ready` is reached.
        is_finite: whether the latents are, bool [] on the host, likewise.
        ready: see `PendingChunk`.
        state: the decoder's new state.
    """

    frames: Tensor
    is_finite: Tensor
    ready: Event
    state: Any


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

    def restore(self, make: Callable[[], Any], latents: Tensor) -> Any:  # noqa: ANN401
        """Make a saved state where it will be used, and see that a chunk can be decoded after it.

        Args:
            make: makes it; raises `ValueError` where it cannot.
            latents: [1, c, C, h, w], any; their values do not matter.

        Raises:
            ValueError: it is no state of this decoder.
        """
        with self.stream.decoding(latents):
            state = make()
            try:
                if state is not None:
                    decode_pictures(self._vae, latents, state)
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
                raise ValueError("its decoder's state cannot be that of this stream") from error
        self.stream.wait(self.stream.finish())
        return state

    def submit(
        self,
        latents: Tensor,
        state: Any,  # noqa: ANN401
        watch: Stopwatch,
    ) -> Decoding:
        """Start to decode a chunk.

        Args:
            latents: [1, c, C, h, w], clean, made on the current stream.
            state: the decoder's, None at a scene's start.
            watch: times the lap `decode`.

        """
        with self.stream.decoding(latents):
            with watch.lap("decode"):
                pictures, after = decode_pictures(self._vae, latents, state)
            is_finite = self.stream.to_host(latents.isfinite().all())
            frames = self.stream.to_host(pictures)
            return Decoding(frames, is_finite, self.stream.event(), after)

    def collect(self, pending: PendingChunk, *, began: float, warm_up: bool) -> Chunk:
        """Wait for a chunk's frames.

        Args:
            pending: the chunk.
            began: when the consumer asked for it, seconds of the host's clock.
            warm_up: whether a chunk submitted since then prepared something.

        Raises:
            StreamError: its latents are not finite, nor can those of any later chunk be.
        """
        self.stream.wait(pending.ready)
        if not pending.is_finite:
            raise StreamError(
                f"chunk {pending.index}, at {pending.start_s:.2f} s, has values that are no finite"
                " numbers, so the stream ends before it; give other weights or a smaller LoRA"
                " scale, or another --dtype"
            )
        # copied to pageable memory: a consumer that keeps frames must not hold pinned pages, and
        # a fork's frames are its own
        frames = pending.frames.numpy().copy()
        ended = time.perf_counter()
        for receipt in pending.receipts:
            # a fork may have collected it before
            if receipt.switch_ms is None:
                asked_at = pending.began if receipt.asked_at is None else receipt.asked_at
                receipt.switch_ms = 1000 * (ended - asked_at)
        # not the pending chunk itself, whose frames are pinned
        ends = pending.watch, pending.before, pending.done
        return Chunk(
            index=pending.index,
            segment=pending.segment,
            prompt=pending.prompt,
            frames=frames,
            latents=pending.latents,
            start_s=pending.start_s,
            receipts=pending.receipts,
            timed=cache(partial(self._timing, *ends, total_ms=1000 * (ended - began))),
            warm_up=pending.warm_up or warm_up,
            notes=pending.notes,
        )

    def _timing(
        self, watch: Stopwatch, before: Event | None, done: Event, *, total_ms: float
    ) -> ChunkTiming:
        """Wait until a chunk is done, and read its laps."""
        self.stream.wait(done)
        spent = watch.read_ms()
        # time before the previous chunk was done is counted for that chunk
        starts = [start for start in (watch.began, before) if start is not None]
        return ChunkTiming(
            switch_ms=spent["switch"],
            denoise_ms=spent["denoise"],
            decode_ms=spent["decode"],
            context_ms=spent["context"],
            model_ms=min(span_ms(start, done) for start in starts),
            total_ms=total_ms,
        )
