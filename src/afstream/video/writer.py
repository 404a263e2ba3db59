"""One writer for every kind of file, which is created at the first frame."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from av.error import FFmpegError

from afstream.errors import ConfigError, OutputError
from afstream.video.mp4 import FragmentedMp4
from afstream.video.picture import Frames, Picture, default_scale
from afstream.video.pictures import PngFolder
from afstream.video.whole import Gif, WebM


class Encoder(Protocol):
    """An encoder of one kind of file, which it creates when it is made."""

    def write(self, frames: Frames) -> None:
        """Append frames [N, H, W, 3]."""

    def close(self) -> None:
        """Finish the file."""


class EncoderKind(Protocol):
    """How an encoder is made."""

    def __call__(self, path: Path, picture: Picture) -> Encoder:
        """Create the file at `path`."""
        ...


FOLDER = ""
KINDS: dict[str, EncoderKind] = {
    ".mp4": FragmentedMp4,
    ".webm": WebM,
    ".gif": Gif,
    FOLDER: PngFolder,
}
HALVED_COLOUR = (".mp4", ".webm")
WRITE_ERRORS = (OSError, FFmpegError)


class VideoWriter:
    """Writes a video as its frames come; use it in a `with` statement.

    Nothing is created or replaced before the first frame. After an error, and after a killed
    process, the file holds what was written before.

    Attributes:
        path: the file, or the folder of PNGs.
        picture: size and rate in the file.
        frames: video frames written.
    """

    def __init__(self, path: Path, picture: Picture) -> None:
        self.path = path
        self.picture = picture
        self.frames = 0
        self._encoder: Encoder | None = None
        self._failed = False

    @classmethod
    def open(
        cls, path: str | Path, *, size: tuple[int, int], fps: int, scale: int | None = None
    ) -> VideoWriter:
        """Check that a video can be written, and prepare for its first frame.

        Args:
            path: ends in .mp4, .webm or .gif, or has no suffix: a folder of PNGs.
            size: width and height of the frames that will come, px.
            fps: video frames a second, such as `stream.fps`.
            scale: whole factor by which pictures are enlarged; None brings the shorter side
                to 256 px or more.

        Raises:
            OutputError: the suffix is unknown or the place cannot be written to.
            ConfigError: the scale is impossible.
        """
        path = Path(path)
        check_output(path)
        width, height = size
        scale = default_scale(size) if scale is None else scale
        if scale < 1:
            raise ConfigError(f"scale is {scale}; it must be 1 or more")
        picture = Picture(width_px=width, height_px=height, scale=scale, fps=fps)
        if path.suffix in HALVED_COLOUR and any(side % 2 for side in picture.size):
            raise ConfigError(
                f"{path.suffix} pictures need even sides and {width}x{height} px at scale"
                f" {scale} has an odd one; choose scale {2 * scale}"
            )
        return cls(path, picture)

    @property
    def seconds(self) -> float:
        """Seconds of video written."""
        return self.frames / self.picture.fps

    def write(self, frames: Frames) -> None:
        """Append frames [N, H, W, 3], red, green, blue.

        Raises:
            ValueError: the frames have another size than the writer was opened with.
            OutputError: the file cannot grow; says how much is kept.
        """
        expected = (self.picture.height_px, self.picture.width_px, 3)
        if frames.shape[1:] != expected:
            raise ValueError(f"frames are {frames.shape}; [N, {expected}] is expected")
        try:
            if self._encoder is None:
                self._encoder = KINDS[self.path.suffix](self.path, self.picture)
            self._encoder.write(frames)
        except WRITE_ERRORS as error:
            self._failed = True
            raise self._stopped(error) from error
        self.frames += len(frames)

    def close(self) -> None:
        """Finish the file; closing twice is allowed.

        Raises:
            OutputError: the file's end cannot be written; says how much is kept.
        """
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            return
        try:
            encoder.close()
        except WRITE_ERRORS as error:
            # After a failed write closing fails too, and the first error was raised already.
            if not self._failed:
                raise self._stopped(error) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        # The error that is being raised is the one to report.
        with suppress(OutputError):
            self.close()

    def _stopped(self, error: OSError | FFmpegError) -> OutputError:
        if error.errno == errno.ENOSPC:
            cause, remedy = f"the disk of {self.path} is full", "free some space"
        else:
            reason = (error.strerror or str(error)).lower()
            cause, remedy = f"cannot write {self.path} ({reason})", "choose another path"
        kept = (
            f"the {self.seconds:.2f} s before that are kept" if self.frames else "nothing is kept"
        )
        return OutputError(f"{cause}: {kept}; {remedy} and start again")


def check_output(path: Path) -> None:
    """Check that a video can be written at `path`, and make its parent folders.

    An existing file or folder is left as it is.

    Raises:
        OutputError: the suffix is unknown or the place cannot be written to.
    """
    if path.suffix not in KINDS:
        known = ", ".join(suffix for suffix in KINDS if suffix)
        raise OutputError(
            f"{path} ends in {path.suffix!r}; use {known}, or no suffix for a folder of PNGs"
        )
    try:
        probe(path if path.suffix else path / "probe")
    except OSError as error:
        raise OutputError.of(path, error) from error


def probe(path: Path) -> None:
    """Open a file for writing, making its parent folders, and leave it as it was.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    with path.open("ab"):
        pass
    if not existed:
        path.unlink()
