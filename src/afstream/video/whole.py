"""Files that one muxer writes from start to end: webm and gif."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from afstream.video.picture import Frames, Picture, Scaler, mark_colours

YUV = "yuv420p"
PALETTE_COLOURS = 256
OPAQUE = 255


class _Muxed(ABC):
    """Encodes pictures and hands the packets to one muxer over one file."""

    container: ClassVar[str]
    codec: ClassVar[Literal["libvpx-vp9", "gif"]]
    pixels: ClassVar[str]
    muxer_options: ClassVar[dict[str, str]]
    codec_options: ClassVar[dict[str, str]] = {}

    def __init__(self, path: Path, picture: Picture) -> None:
        self._scaler = Scaler(picture)
        self._fps = picture.fps
        self._ticks_per_s = self.ticks(picture.fps)
        self._frames = 0
        # A Python file, so that a failed write raises its own OSError.
        self._file = path.open("wb", buffering=0)
        self._container = av.open(
            self._file,
            "w",
            format=self.container,
            options={"fflags": "+bitexact+flush_packets", **self.muxer_options},
        )
        self._stream = self._container.add_stream(
            self.codec, rate=picture.fps, options=self.codec_options
        )
        self._stream.width, self._stream.height = picture.size
        self._stream.pix_fmt = self.pixels
        self._stream.codec_context.time_base = Fraction(1, self._ticks_per_s)
        self._stream.codec_context.thread_count = 1
        if self.pixels == YUV:
            mark_colours(self._stream.codec_context)

    def write(self, frames: Frames) -> None:
        """Append frames [N, H, W, 3]."""
        for picture in self._pictures(frames):
            picture.pts = round(self._frames * self._ticks_per_s / self._fps)
            picture.time_base = Fraction(1, self._ticks_per_s)
            self._container.mux(self._stream.encode(picture))
            self._frames += 1

    def close(self) -> None:
        """Write the packets that the encoder still holds, then the file's end."""
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        finally:
            self._file.close()

    def ticks(self, fps: int) -> int:
        """Time stamps a second."""
        return fps

    @abstractmethod
    def _pictures(self, frames: Frames) -> Iterator[VideoFrame]:
        """Frames [N, H, W, 3] in the size and pixels of the file."""


class WebM(_Muxed):
    """VP9 with real-time settings; a killed process loses the newest cluster, about a chunk."""

    container = "webm"
    codec = "libvpx-vp9"
    pixels = YUV
    muxer_options: ClassVar = {"cluster_time_limit": "750"}
    codec_options: ClassVar = {
        "deadline": "realtime",
        "cpu-used": "8",
        "lag-in-frames": "0",
        "crf": "24",
        "b": "0",
    }

    def _pictures(self, frames: Frames) -> Iterator[VideoFrame]:
        return self._scaler.scaled(frames, YUV)


class Gif(_Muxed):
    """A gif with a palette for each chunk, and only what changes between frames."""

    container = "gif"
    codec = "gif"
    pixels = "pal8"
    muxer_options: ClassVar = {"loop": "0"}

    def ticks(self, fps: int) -> int:
        """Hundredths of a second, the only unit that a gif has."""
        return 100

    def _pictures(self, frames: Frames) -> Iterator[VideoFrame]:
        palette = _palette(frames)
        colours = _packed(palette)
        for picture in self._scaler.scaled(frames, "rgb24"):
            image = Image.fromarray(picture.to_ndarray())
            # Dithering would change every pixel in every frame and undo the compression.
            indexed = image.quantize(palette=palette, dither=Image.Dither.NONE)
            indices: NDArray[np.uint8] = np.asarray(indexed)
            # PyAV takes this pair for pal8; its type stub does not know.
            pair = (indices, colours)
            yield VideoFrame.from_ndarray(pair, format="pal8")  # pyright: ignore[reportArgumentType]


def _palette(frames: Frames) -> Image.Image:
    """A picture whose palette serves all of frames [N, H, W, 3]."""
    strip = Image.fromarray(frames.reshape(-1, frames.shape[2], 3))
    return strip.quantize(PALETTE_COLOURS, method=Image.Quantize.MEDIANCUT)


def _packed(palette: Image.Image) -> NDArray[np.uint8]:
    """The palette as [256, 4]: opacity, red, green, blue."""
    values = np.array(palette.getpalette("RGB"), np.uint8).reshape(-1, 3)
    packed = np.zeros((PALETTE_COLOURS, 4), np.uint8)
    packed[:, 0] = OPAQUE
    packed[: len(values), 1:] = values
    return packed
