"""H.264 files that grow chunk by chunk, can be gone on with, and end as ordinary files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

from av.error import FFmpegError

from afstream.atomic import replace_file
from afstream.errors import OutputError
from afstream.paths import FOLDER
from afstream.video.existing import ExistingFilm
from afstream.video.files import create, kind_at, open_existing, refuse_changed, same_file
from afstream.video.h264 import CRF, DEFAULT_CRF, ChunkEncoder
from afstream.video.info import Chapter, FilmInfo, Past
from afstream.video.muxing import MKV, MOV, MP4, Container, PieceMuxer, chunks_with_starts
from afstream.video.picture import Captions, Frames


class GrowingFile:
    """An H.264 file that is whole after every chunk."""

    crf: ClassVar = CRF
    default_crf: ClassVar = DEFAULT_CRF
    container: ClassVar[Container]

    def __init__(self, path: Path, film: FilmInfo, *, past: Past | None, overwrite: bool) -> None:
        self.frames = 0
        self._path = path
        self._encoder = ChunkEncoder(film)
        self._muxer = PieceMuxer(self.container, film)
        self._header = b""
        if past and same_file(past.path, path):
            self._file = self._cut(past)
        elif past:
            with ExistingFilm.open(past.path) as source:
                self._file = create(path, overwrite=overwrite)
                self._copy(source, past.frames, self._file)
        else:
            self._file = create(path, overwrite=overwrite)

    @classmethod
    def check_past(cls, past: Past, film: FilmInfo) -> None:
        """Check that a film can begin with the past.

        Raises:
            OutputError: it has other settings, or no chunk ends there.
        """
        if kind_at(past.path) == FOLDER:
            raise OutputError(
                f"a video cannot go on from {past.path}, a folder of PNGs; choose another folder"
            )
        with ExistingFilm.open(past.path) as source:
            film.check_agrees(past.path, source.tags)
            source.check_boundary(past.frames)

    def write(self, frames: Frames, captions: Captions | None) -> None:
        """Append frames [N, H, W, 3] as one piece; raises what `sync` does."""
        self._refuse_changed()
        packets = self._encoder.encode(frames, captions)
        self._append(self._file, packets, self.frames)
        self.frames += len(frames)

    def sync(self) -> None:
        """Wait until what is written has reached the disk.

        Raises:
            OSError: something else has removed, replaced or cut the file.
        """
        os.fsync(self._file.fileno())
        self._refuse_changed()

    def finish(self, chapters: Sequence[Chapter]) -> str | None:
        """Replace the file by an ordinary one; why that was not possible otherwise.

        Raises:
            OSError: see `sync`.
        """
        self.sync()
        try:
            with (
                ExistingFilm.open(self._path) as source,
                replace_file(self._path) as file,
            ):
                self._muxer.finish(source, file, chapters)
        except (OutputError, FFmpegError) as error:
            return str(error)
        return None

    def close(self) -> None:
        """Close the file, which is whole already."""
        self._muxer.close()
        self._file.close()

    def kept(self) -> int:
        """Whole frames that are in the file after a failure."""
        return self.frames

    def _refuse_changed(self) -> None:
        try:
            refuse_changed(self._path, self._file, self._file.tell())
        except OSError:
            self.frames = 0
            raise

    def _cut(self, past: Past) -> BinaryIO:
        """The past alone in the same file, open for more.

        A file that is still growing is cut where the past ends. Another one is written anew beside
        the old one, and then takes its place.
        """
        with ExistingFilm.open(past.path) as source:
            first, packets = next(chunks_with_starts(source, past.frames), (0, []))
            if packets:
                header, piece = self._muxer.piece(packets, first)
                source.file.seek(0)
                in_place = source.file.read(len(header) + len(piece)) == header + piece
                if in_place:
                    self._header = header
                    self.frames = past.frames
                    file = open_existing(self._path, write=True)
                    file.truncate(source.offset_of(past.frames))
                    file.seek(0, os.SEEK_END)
                    return file
            with replace_file(self._path) as new:
                self._copy(source, past.frames, new)
        file = open_existing(self._path, write=True)
        file.seek(0, os.SEEK_END)
        return file

    def _copy(self, source: ExistingFilm, frames: int, file: BinaryIO) -> None:
        for first, packets in chunks_with_starts(source, frames):
            self._append(file, packets, first)
        self.frames = frames

    def _append(self, file: BinaryIO, packets: Sequence[bytes], first_frame: int) -> None:
        header, piece = self._muxer.piece(packets, first_frame)
        data = piece if self._header else header + piece
        whole = file.tell()
        try:
            file.write(data)
        except OSError:
            # A full disk may take part of a piece; everything before it is kept.
            file.seek(whole)
            file.truncate()
            raise
        self._header = header


class Mp4(GrowingFile):
    """An .mp4 or .m4v file."""

    container = MP4


class Mov(GrowingFile):
    """A QuickTime file."""

    container = MOV


class Mkv(GrowingFile):
    """A Matroska file."""

    container = MKV
