"""A growing mp4 to standard output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from afstream.errors import OutputError
from afstream.video.files import WholeFile
from afstream.video.h264 import CRF, DEFAULT_CRF, ChunkEncoder
from afstream.video.info import Chapter, FilmInfo, Past
from afstream.video.muxing import MP4, PieceMuxer
from afstream.video.picture import Captions, Frames

STANDARD_OUTPUT = Path("-")
HANDLE = 1


class PipedMp4:
    """Fragments to whatever reads standard output; nothing is read back or moved."""

    crf: ClassVar = CRF
    default_crf: ClassVar = DEFAULT_CRF

    def __init__(self, path: Path, film: FilmInfo, *, past: Past | None, overwrite: bool) -> None:
        self.frames = 0
        self._encoder = ChunkEncoder(film)
        self._muxer = PieceMuxer(MP4, film)
        # A handle of its own, so that closing it leaves the process's output alone.
        self._file = WholeFile(os.dup(HANDLE), "w")
        os.set_blocking(self._file.fileno(), True)

    @classmethod
    def check_past(cls, past: Past, film: FilmInfo) -> None:
        """Refuse to go on.

        Raises:
            OutputError: always.
        """
        raise OutputError("standard output cannot go on from another film; choose a file")

    def write(self, frames: Frames, captions: Captions | None) -> None:
        """Write frames [N, H, W, 3] as one fragment."""
        packets = self._encoder.encode(frames, captions)
        header, piece = self._muxer.piece(packets, self.frames)
        self._file.write(piece if self.frames else header + piece)
        self.frames += len(frames)

    def sync(self) -> None:
        """Do nothing: what was written is with the reader."""

    def finish(self, chapters: Sequence[Chapter]) -> str | None:
        """Do nothing: a stream has no index."""
        return None

    def close(self) -> None:
        """Let go of standard output."""
        self._muxer.close()
        self._file.close()

    def kept(self) -> int:
        """Frames that the reader has taken."""
        return self.frames


def check_standard_output() -> None:
    """Check that something else than a terminal reads standard output.

    Raises:
        OutputError: it is closed, or a terminal.
    """
    try:
        terminal = os.isatty(HANDLE)
        # of a handle that was opened again for reading, as of one that is closed
        os.write(HANDLE, b"")
    except OSError:
        raise OutputError(
            "standard output is closed; give a file, or pipe it into a player"
        ) from None
    if terminal:
        raise OutputError("standard output is a terminal; give a file, or pipe it into a player")
