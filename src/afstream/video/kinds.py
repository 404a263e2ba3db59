"""The kinds of films, told by their suffix, and what is asked of a path before one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from afstream.errors import OutputError
from afstream.video.files import is_file, probe
from afstream.video.growing import Mkv, Mov, Mp4
from afstream.video.info import Chapter, FilmInfo, Past
from afstream.video.picture import Captions, Frames
from afstream.video.pipe import STANDARD_OUTPUT, PipedMp4, check_standard_output
from afstream.video.png_folder import PngFolder, own_pictures
from afstream.video.webm_gif import Gif, WebM


class Encoder(Protocol):
    """Writes one film, which it creates when it is made.

    Attributes:
        frames: written so far, those of the past included.
    """

    frames: int

    def write(self, frames: Frames, captions: Captions | None) -> None:
        """Append frames [N, H, W, 3], with captions drawn into them."""

    def sync(self) -> None:
        """Wait until what is written has reached the disk."""

    def finish(self, chapters: Sequence[Chapter]) -> str | None:
        """Make it an ordinary file; why that was not possible otherwise."""

    def close(self) -> None:
        """Close the file."""

    def kept(self) -> int:
        """Whole frames in the file after a failure."""
        ...


class EncoderKind(Protocol):
    """How an encoder is made, and what it can do.

    Attributes:
        crf: the constant rate factors that it takes; None where it has none.
        default_crf: the one that is taken when none is given.
    """

    @property
    def crf(self) -> range | None:
        """See above."""
        ...

    @property
    def default_crf(self) -> int | None:
        """See above."""
        ...

    def check_past(self, past: Past, film: FilmInfo) -> None:
        """Check that a film can begin with the past.

        Raises:
            OutputError: it cannot.
        """

    def __call__(
        self, path: Path, film: FilmInfo, *, past: Past | None, overwrite: bool
    ) -> Encoder:
        """Create the file at `path`."""
        ...


FOLDER = ""
KINDS: dict[str, EncoderKind] = {
    ".mp4": Mp4,
    ".m4v": Mp4,
    ".mov": Mov,
    ".mkv": Mkv,
    ".webm": WebM,
    ".gif": Gif,
    FOLDER: PngFolder,
}
HALVED_COLOUR: tuple[EncoderKind, ...] = (Mp4, Mov, Mkv, WebM, PipedMp4)
NO_NAMES = ("", "..")


def kind_of(path: Path) -> EncoderKind:
    """The encoder for a path.

    Raises:
        OutputError: its suffix is unknown, or it names a place and no file.
    """
    if path == STANDARD_OUTPUT:
        return PipedMp4
    if path.name in NO_NAMES:
        raise OutputError(f"{str(path)!r} names no file; give one, such as out.mp4")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(suffix for suffix in KINDS if suffix)
        raise OutputError(
            f"{path} ends in {path.suffix!r}; use {known}, or no suffix for a folder of PNGs"
        )
    return kind


def goes_on(path: Path) -> bool:
    """Whether a film of this suffix can be gone on with when it was interrupted, or has ended."""
    return KINDS.get(path.suffix.lower()) not in (WebM, Gif, None)


def check_output(path: Path) -> None:
    """Check that a film can be written at `path`, and make its parent folders.

    What exists is left as it is, and may exist.

    Raises:
        OutputError: the suffix is unknown or the place cannot be written to.
    """
    if path == STANDARD_OUTPUT:
        check_standard_output()
        return
    try:
        if kind_of(path) is not PngFolder:
            probe(path)
            return
        existed = bool(own_pictures(path)) or path.exists()
        probe(path / "probe")
        if not existed:
            path.rmdir()
    except OSError as error:
        raise OutputError.of(path, error) from error


def taken(path: Path) -> bool:
    """Whether there is a film at a path already.

    Raises:
        OutputError: there is something else.
    """
    if path == STANDARD_OUTPUT:
        return False
    if kind_of(path) is PngFolder:
        return bool(own_pictures(path))
    return is_file(path)
