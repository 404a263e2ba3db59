"""Files that one muxer writes from start to end: webm and gif."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from afstream.errors import OutputError
from afstream.video.existing import opened
from afstream.video.files import create, open_existing, refuse_changed
from afstream.video.gif import WithComment
from afstream.video.info import Chapter, FilmInfo, Past
from afstream.video.picture import Captions, Frames, Scaler, mark_colours

YUV = "yuv420p"
PALETTE_COLOURS = 256
OPAQUE = 255


class _Muxed(ABC):
    """Encodes pictures and hands the packets to one muxer over one file."""

    crf: ClassVar[range | None] = None
    default_crf: ClassVar[int | None] = None
    container: ClassVar[str]
    codec: ClassVar[Literal["libvpx-vp9", "gif"]]
    pixels: ClassVar[str]
    muxer_options: ClassVar[dict[str, str]]
    # Whether a packet of which the end is missing is read, and must be decoded to be told.
    may_tear: ClassVar[bool] = False

    def __init__(self, path: Path, film: FilmInfo, *, past: Past | None, overwrite: bool) -> None:
        picture = film.picture
        self.frames = 0
        self._path = path
        self._scaler = Scaler(picture)
        self._fps = picture.fps
        self._ticks_per_s = self.ticks(picture.fps)
        # A Python file, so that a failed write raises its own OSError.
        self._file = create(path, overwrite=overwrite)
        self._container = av.open(
            self.to_write(self._file, film),
            "w",
            format=self.container,
            options={"fflags": "+bitexact+flush_packets", **self.muxer_options},
        )
        self._container.metadata.update(film.metadata)
        self._stream = self._container.add_stream(
            self.codec, rate=picture.fps, options=self.codec_options(film)
        )
        self._stream.width, self._stream.height = picture.size
        self._stream.pix_fmt = self.pixels
        self._stream.codec_context.time_base = Fraction(1, self._ticks_per_s)
        self._stream.codec_context.thread_count = 1
        if self.pixels == YUV:
            mark_colours(self._stream.codec_context)

    @classmethod
    def check_past(cls, past: Past, film: FilmInfo) -> None:
        """Refuse to go on: one encoder lives through the whole file.

        Raises:
            OutputError: always.
        """
        raise OutputError(
            f"a {cls.container} cannot go on from another film; .mp4, .mov, .m4v, .mkv and folders"
            " of PNGs can"
        )

    def write(self, frames: Frames, captions: Captions | None) -> None:
        """Append frames [N, H, W, 3]; raises what `sync` does."""
        refuse_changed(self._path, self._file)
        for picture in self._pictures(frames, captions):
            picture.pts = round(self.frames * self._ticks_per_s / self._fps)
            picture.time_base = Fraction(1, self._ticks_per_s)
            self._container.mux(self._stream.encode(picture))
            self.frames += 1

    def sync(self) -> None:
        """Wait until what is written has reached the disk.

        Raises:
            OSError: something else has removed or replaced the file.
        """
        os.fsync(self._file.fileno())
        refuse_changed(self._path, self._file)

    def finish(self, chapters: Sequence[Chapter]) -> str | None:
        """Leave the file's end to `close`; raises what `sync` does."""
        self.sync()
        return None

    def close(self) -> None:
        """Write the packets that the encoder still holds, then the file's end."""
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        finally:
            self._file.close()

    def kept(self) -> int:
        """Whole frames in the file after a failure; the muxer may have held some back."""
        with suppress(OSError, FFmpegError):
            self.close()
        whole = 0
        try:
            with open_existing(self._path) as file:
                size = file.seek(0, os.SEEK_END)
                with opened(file, self.container, size) as container:
                    for packet in container.demux(video=0):
                        whole += len(packet.decode()) if self.may_tear else bool(packet.size)
        except (OutputError, OSError, FFmpegError):
            # Beyond this nothing can be read.
            pass
        return whole

    def ticks(self, fps: int) -> int:
        """Time stamps a second."""
        return fps

    def to_write(self, file: BinaryIO, film: FilmInfo) -> BinaryIO | WithComment:
        """What the muxer writes to."""
        return file

    def codec_options(self, film: FilmInfo) -> dict[str, str]:
        """What the encoder is told."""
        return {}

    @abstractmethod
    def _pictures(self, frames: Frames, captions: Captions | None) -> Iterator[VideoFrame]:
        """Frames [N, H, W, 3] in the size and pixels of the file."""


class WebM(_Muxed):
    """VP9 with real-time settings; a killed process loses the newest cluster, about a chunk."""

    crf: ClassVar = range(64)
    default_crf: ClassVar = 24
    container = "webm"
    codec = "libvpx-vp9"
    pixels = YUV
    muxer_options: ClassVar = {"cluster_time_limit": "750"}

    def codec_options(self, film: FilmInfo) -> dict[str, str]:
        """Real time, and constant quality."""
        return {
            "deadline": "realtime",
            "cpu-used": "8",
            "lag-in-frames": "0",
            "crf": str(film.crf),
            "b": "0",
        }

    def _pictures(self, frames: Frames, captions: Captions | None) -> Iterator[VideoFrame]:
        return self._scaler.scaled(frames, YUV, captions)


class Gif(_Muxed):
    """A gif with a palette for each chunk, and only what changes between frames."""

    container = "gif"
    codec = "gif"
    pixels = "pal8"
    muxer_options: ClassVar = {"loop": "0"}
    may_tear: ClassVar = True

    def ticks(self, fps: int) -> int:
        """Hundredths of a second, the only unit that a gif has."""
        return 100

    def to_write(self, file: BinaryIO, film: FilmInfo) -> WithComment:
        """A file that gets the film's tags."""
        return WithComment(file, film.comment)

    def _pictures(self, frames: Frames, captions: Captions | None) -> Iterator[VideoFrame]:
        palette = _palette(frames)
        colours = _packed(palette)
        for picture in self._scaler.scaled(frames, "rgb24", captions):
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
