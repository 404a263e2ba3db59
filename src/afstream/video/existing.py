"""Films that are there already: their tags, their frames and their packets."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from afstream.errors import OutputError, reason_of
from afstream.paths import FOLDER
from afstream.video import gif
from afstream.video.files import is_file, kind_at, open_existing
from afstream.video.h264 import annex_b
from afstream.video.info import tags_in
from afstream.video.pieces import Pieces, PiecesOf, mkv_pieces, mp4_pieces
from afstream.video.png_folder import tags_of_folder, whole_pictures

MP4_NAME = slice(4, 8)
MKV_START = b"\x1a\x45\xdf\xa3"
# More than the index of ten hours of film takes; a damaged file must not fill the memory.
MAX_INDEX_BYTES = 64 << 20
READ_ERRORS = (OSError, FFmpegError, ValueError, MemoryError)


class Bounded(io.RawIOBase):
    """The start of a file, up to `end`, of which no more than `budget` bytes are read.

    It never raises: PyAV prints the traceback of an error that a second one follows.
    """

    def __init__(self, file: BinaryIO, end: int, budget: int | None = None) -> None:
        self._file = file
        self._end = end
        self._budget = budget
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none where the file ends, or the budget does."""
        room = max(self._end - self._at, 0)
        if self._budget is not None:
            room = min(room, self._budget)
        if not room:
            return b""
        self._file.seek(self._at)
        data = self._file.read(room if size < 0 else min(size, room))
        self._at += len(data)
        if self._budget is not None:
            self._budget -= len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to an offset; a damaged file may ask for one before its start."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        # a damaged file may name an offset before its start
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """The offset."""
        return self._at


def format_of(file: BinaryIO) -> tuple[str, PiecesOf] | None:
    """FFmpeg's name of a file's format, told by its first bytes, and how it is taken apart."""
    file.seek(0)
    head = file.read(12)
    if head[MP4_NAME] == b"ftyp":
        return "mov", mp4_pieces
    if head.startswith(MKV_START):
        return "matroska", mkv_pieces
    return None


@contextmanager
def opened(
    file: BinaryIO, name: str, end: int, budget: int | None = None
) -> Generator[InputContainer, None, None]:
    """Open a file for PyAV, which is given no path, hence no network and no other file."""
    with av.open(Bounded(file, end, budget), format=name) as container:
        yield container


def read_tags(path: str | Path) -> dict[str, str]:
    """The tags of a film, among them `title` and `encoder`; empty when afstream did not write it.

    Args:
        path: a film, or a folder of PNGs.

    Raises:
        OutputError: there is nothing, no ordinary file, or a damaged one.
    """
    path = Path(path)
    if kind_at(path) == FOLDER:
        return tags_of_folder(path)
    with open_existing(path) as file:
        try:
            if gif.is_gif(file):
                return tags_in(gif.read_comment(file))
            found = format_of(file)
            if not found:
                return {}
            end = file.seek(0, os.SEEK_END)
            with opened(file, found[0], end, MAX_INDEX_BYTES) as container:
                return tags_in(comment_of(container))
        except UnicodeDecodeError:
            # Ours are in UTF-8.
            return {}
        except READ_ERRORS as error:
            raise damaged(path, error) from error


def frames_in(path: str | Path) -> int:
    """Whole frames of a film that afstream wrote: mp4, mov, m4v, mkv, or a folder of PNGs.

    Of a growing file only whole chunks count; a torn end does not. An empty file holds none: that
    of a run that was killed before its first chunk.

    Raises:
        OutputError: there is nothing, or no film that can be gone on with.
    """
    path = Path(path)
    if kind_at(path) == FOLDER:
        return whole_pictures(path)
    if is_file(path) and not path.stat().st_size:
        return 0
    with ExistingFilm.open(path) as film:
        return film.frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingFilm:
    """An H.264 film, open for reading.

    Attributes:
        path: the film.
        tags: what it says of itself; empty when afstream did not write it.
        frames: whole frames.
        chunk_starts: the frames that are keyframes, each the first of a chunk.
        chunk_offsets: where the piece with that frame starts, bytes; in a finished mp4, 0.
        end: offset at which the last whole piece ends, bytes.
    """

    path: Path
    tags: dict[str, str]
    frames: int
    chunk_starts: list[int]
    chunk_offsets: list[int]
    end: int
    file: BinaryIO
    format: str

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Generator[ExistingFilm, None, None]:
        """Read a film's index.

        Raises:
            OutputError: there is nothing, or no H.264 film.
        """
        with open_existing(path) as file:
            try:
                film = cls._read(path, file)
            except READ_ERRORS as error:
                raise damaged(path, error) from error
            yield film

    @classmethod
    def _read(cls, path: Path, file: BinaryIO) -> ExistingFilm:
        found = format_of(file)
        if not found:
            raise OutputError(
                f"{path} is no film that can be gone on with: an mp4, mov, m4v or mkv"
            )
        name, pieces_of = found
        pieces = pieces_of(file)
        frames, starts, positions = 0, list[int](), list[int]()
        with opened(file, name, pieces.end) as container:
            stream = h264_stream(container, path)
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.is_keyframe:
                    starts.append(frames)
                    positions.append(packet.pos or 0)
                frames += 1
            tags = tags_in(comment_of(container))
        if not frames:
            raise OutputError(f"{path} holds no whole chunk of a film; make it again")
        return cls(
            path=path,
            tags=tags,
            frames=frames,
            chunk_starts=starts,
            chunk_offsets=offsets(pieces, positions),
            end=pieces.end,
            file=file,
            format=name,
        )

    def check_boundary(self, frame: int) -> None:
        """Check that a chunk, or the film, ends before a frame.

        Raises:
            OutputError: it does not.
        """
        if frame in self.chunk_starts or frame == self.frames:
            return
        if not 0 <= frame < self.frames:
            raise OutputError(f"{self.path} holds {self.frames} frames, not {frame}")
        before = max(start for start in self.chunk_starts if start < frame)
        after = min((start for start in self.chunk_starts if start > frame), default=self.frames)
        raise OutputError(
            f"{self.path} cannot be cut at frame {frame}, inside a chunk; the nearest cuts are"
            f" {before} and {after}"
        )

    def offset_of(self, frame: int) -> int:
        """Offset at which the pieces before a chunk's first frame end, bytes."""
        if frame == self.frames:
            return self.end
        return self.chunk_offsets[self.chunk_starts.index(frame)]

    def chunks(self, frames: int) -> Iterator[list[bytes]]:
        """The packets of the first frames, chunk by chunk, in Annex B.

        Raises:
            OutputError: a packet is damaged.
        """
        chunk: list[bytes] = []
        for index, packet in enumerate(self.packets(frames)):
            if packet.is_keyframe and index:
                yield chunk
                chunk = []
            try:
                chunk.append(annex_b(bytes(packet)))
            except ValueError as error:
                raise damaged(self.path, error) from error
        if chunk:
            yield chunk

    def packets(self, frames: int) -> Iterator[Packet[VideoStream]]:
        """The packets of the first frames, as they are in the file.

        Raises:
            OutputError: the file is damaged.
        """
        if not frames:
            return
        try:
            with opened(self.file, self.format, self.end) as container:
                left = frames
                for packet in container.demux(h264_stream(container, self.path)):
                    if packet.size:
                        yield packet
                        left -= 1
                    if not left:
                        return
        except READ_ERRORS as error:
            raise damaged(self.path, error) from error


def offsets(pieces: Pieces, positions: list[int]) -> list[int]:
    """The start of the piece around each position."""
    before = (bisect_right(pieces.starts, position) for position in positions)
    return [pieces.starts[count - 1] if count else 0 for count in before]


def h264_stream(container: InputContainer, path: Path) -> VideoStream:
    """The video of a film.

    Raises:
        OutputError: it has none, or of another codec.
    """
    for stream in container.streams.video:
        # There is no context where FFmpeg does not know the codec; PyAV's types do not say so.
        if getattr(stream.codec_context, "name", "") == "h264":
            return stream
    raise OutputError(f"{path} holds no H.264 video, so it cannot be gone on with")


def comment_of(container: InputContainer) -> str:
    """The comment of a film; its name is in capitals in Matroska files."""
    return next((v for k, v in container.metadata.items() if k.lower() == "comment"), "")


def damaged(path: Path, error: Exception) -> OutputError:
    """The error for a film that cannot be read."""
    return OutputError(f"{path} is damaged or no film ({reason_of(error)}); choose another path")
