"""A folder of PNGs, one per video frame."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import ClassVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from afstream.atomic import sync_folder
from afstream.errors import OutputError
from afstream.paths import FOLDER
from afstream.video.files import create, is_file, is_folder, kind_at, open_existing, same_file
from afstream.video.info import ENCODER, Chapter, FilmInfo, Past, tags_in
from afstream.video.picture import Captions, Frames, Scaler

NAME = "frame_{:06d}.png"
PATTERN = re.compile(r"frame_[0-9]{6,}\.png", re.ASCII)
# zlib's fastest: half the time of the default for a few per cent more bytes.
COMPRESSION = 1
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 25
LAST_CHUNK = b"\0\0\0\0IEND\xae\x42\x60\x82"
# Pillow writes texts in the order in which they were added, right behind the header.
MARK = b"tEXtSoftware\0" + ENCODER.encode()
COMMENT = b"tEXtComment\0"
LENGTH_BYTES = 4
CHECKSUM_BYTES = 4
# before the name of the first text
HEAD_BYTES = len(SIGNATURE) + HEADER_BYTES + LENGTH_BYTES
MAX_COMMENT_BYTES = 1 << 20


class PngFolder:
    """Numbered pictures; each is written under another name and renamed when it is whole."""

    crf: ClassVar = None
    default_crf: ClassVar = None

    def __init__(self, path: Path, film: FilmInfo, *, past: Past | None, overwrite: bool) -> None:
        self.frames = 0
        self._folder = path
        self._scaler = Scaler(film.picture)
        self._texts = PngInfo()
        self._texts.add_text("Software", ENCODER)
        self._texts.add_text("Comment", film.comment)
        if film.shown_title:
            self._texts.add_text("Title", film.shown_title)
        self._unsynced: list[Path] = []
        path.mkdir(exist_ok=True)
        here = past is not None and same_file(past.path, path)
        self._remove_from(past.frames if past and here else 0, allowed=here or overwrite)
        if past and here:
            self.frames = past.frames
        elif past:
            for number in range(past.frames):
                with open_existing(past.path / NAME.format(number)) as picture:
                    self._put(picture.read())

    @classmethod
    def check_past(cls, past: Past, film: FilmInfo) -> None:
        """Check that a film can begin with the past.

        Raises:
            OutputError: it has other settings, or too few pictures.
        """
        if kind_at(past.path) != FOLDER:
            raise OutputError(
                f"a folder of PNGs cannot go on from {past.path}, which is none; choose .mp4, .mov,"
                " .m4v or .mkv"
            )
        film.check_agrees(past.path, tags_of_folder(past.path))
        whole = whole_pictures(past.path)
        if not 0 <= past.frames <= whole:
            raise OutputError(f"{past.path} holds {whole} frames, not {past.frames}")

    def write(self, frames: Frames, captions: Captions | None) -> None:
        """Write frames [N, H, W, 3] under the next N numbers, counted from 0."""
        for picture in self._scaler.scaled(frames, "rgb24", captions):
            data = io.BytesIO()
            Image.fromarray(picture.to_ndarray()).save(
                data, "png", compress_level=COMPRESSION, pnginfo=self._texts
            )
            self._put(data.getvalue())

    def sync(self) -> None:
        """Wait until the pictures since the last call have reached the disk."""
        for path in self._unsynced:
            with open_existing(path, write=True) as file:
                os.fsync(file.fileno())
        self._unsynced.clear()
        sync_folder(self._folder)

    def finish(self, chapters: Sequence[Chapter]) -> str | None:
        """Do nothing, because every picture is written already."""
        return None

    def close(self) -> None:
        """Do nothing, because every picture is written already."""

    def kept(self) -> int:
        """Whole pictures."""
        return self.frames

    def _put(self, data: bytes) -> None:
        """Make the bytes of a picture the next one."""
        path = self._folder / NAME.format(self.frames)
        part = path.with_name(f".{path.name}.partial")
        # One of a process that was killed.
        if is_file(part):
            part.unlink()
        try:
            with create(part, overwrite=False) as file:
                file.write(data)
            if is_file(path):
                raise FileExistsError(f"{path.name} has come into the folder meanwhile")
            part.rename(path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise
        self._unsynced.append(path)
        self.frames += 1

    def _remove_from(self, first: int, *, allowed: bool) -> None:
        """Remove the film's pictures from a number on, the last one first."""
        doomed = [path for path in own_pictures(self._folder) if number_of(path) >= first]
        if doomed and not allowed:
            raise FileExistsError(f"{doomed[0].name} has come into the folder meanwhile")
        for path in sorted(doomed, key=number_of, reverse=True):
            path.unlink()


def number_of(path: Path) -> int:
    """The number in a picture's name."""
    return int(path.stem.rpartition("_")[2])


def own_pictures(folder: Path) -> list[Path]:
    """The pictures of afstream in a folder, which is looked through to its end.

    Raises:
        OutputError: one of the names is taken by something else.
    """
    if not is_folder(folder):
        return []
    named = [path for path in folder.iterdir() if PATTERN.fullmatch(path.name)]
    for path in named:
        if not is_own(path):
            raise OutputError(
                f"{path} was not written by afstream and is not replaced; choose another folder"
            )
    return named


def is_own(path: Path) -> bool:
    """Whether afstream wrote a picture, or the start of one before a power failure.

    Raises:
        OutputError: it is no ordinary file or cannot be read.
    """
    with open_existing(path) as file:
        head = file.read(HEAD_BYTES + len(MARK))
    return SIGNATURE.startswith(head[: len(SIGNATURE)]) and MARK.startswith(head[HEAD_BYTES:])


def tags_of_folder(folder: Path) -> dict[str, str]:
    """The tags of the first picture; empty when there is none, or a foreign one.

    Raises:
        OutputError: it is no ordinary file or cannot be read.
    """
    first = folder / NAME.format(0)
    return tags_of_picture(first) if is_file(first) else {}


def tags_of_picture(path: Path) -> dict[str, str]:
    """The tags of a picture; empty when afstream did not write it.

    Raises:
        OutputError: it is no ordinary file or cannot be read.
    """
    if not is_own(path):
        return {}
    with open_existing(path) as file:
        file.seek(HEAD_BYTES + len(MARK) + CHECKSUM_BYTES)
        length = int.from_bytes(file.read(LENGTH_BYTES), "big")
        if length > MAX_COMMENT_BYTES or file.read(len(COMMENT)) != COMMENT:
            return {}
        text = file.read(length - len(COMMENT) + LENGTH_BYTES)
        return tags_in(text.decode("latin-1"))


def whole_pictures(folder: Path) -> int:
    """Pictures from number 0 on, without a gap, that have their end."""
    for number in count():
        path = folder / NAME.format(number)
        if not is_file(path) or not is_whole(path):
            return number
    raise AssertionError


def is_whole(path: Path) -> bool:
    """Whether a picture has its last chunk."""
    with open_existing(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(LAST_CHUNK), 0))
        return file.read() == LAST_CHUNK
