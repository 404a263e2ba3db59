"""One writer for every kind of film, which is created at the first frame."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from av.error import FFmpegError

from afstream.errors import ConfigError, OutputError, reason_of
from afstream.video.captions import CaptionPainter
from afstream.video.files import same_file
from afstream.video.info import Chapter, FilmInfo, Past
from afstream.video.kinds import HALVED_COLOUR, Encoder, EncoderKind, check_output, kind_of, taken
from afstream.video.picture import Captions, Frames, Picture, default_scale
from afstream.video.pipe import STANDARD_OUTPUT

WRITE_ERRORS = (OSError, FFmpegError)


class VideoWriter:
    """Writes a video as its frames come; use it in a `with` statement.

    Nothing is created or replaced before the first frame, unless the film is finished without one.
    After an error, and after a killed process, the file holds what was written before.

    Attributes:
        path: the file, or the folder of PNGs; - is standard output.
        film: what the file says of itself.
        frames: video frames in the file, those of its past included.
    """

    def __init__(
        self,
        path: Path,
        film: FilmInfo,
        kind: EncoderKind,
        *,
        past: Past | None,
        overwrite: bool,
        painter: CaptionPainter,
    ) -> None:
        self.path = path
        self.film = film
        self.frames = past.frames if past else 0
        self._kind = kind
        self._past = past
        self._overwrite = overwrite
        self._painter = painter
        self._encoder: Encoder | None = None
        self._failed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        size: tuple[int, int],
        fps: int,
        scale: int | None = None,
        crf: int | None = None,
        title: str = "",
        tags: Mapping[str, str] | None = None,
        past: Past | None = None,
        overwrite: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> VideoWriter:
        """Check that a video can be written, and prepare for its first frame.

        Args:
            path: ends in .mp4, .mov, .m4v, .mkv, .webm or .gif, or has no suffix: a folder of
                PNGs; - is an mp4 to standard output.
            size: width and height of the frames that will come, px.
            fps: video frames a second, such as `stream.fps`.
            scale: whole factor by which pictures are enlarged; None brings the shorter side
                to 256 px or more.
            crf: constant rate factor, less of which is better and larger: 0 to 51 for H.264, 0 to
                63 for webm; None is 18 and 24. H.264's 0 is lossless, which few players show.
            title: of the film, for players.
            tags: found again by `read_tags`.
            past: an existing film, with whose first frames this one begins, bit for bit.
            overwrite: whether an existing film is replaced at the first frame.
            warn: is told which characters of captions no font has.

        Raises:
            OutputError: the suffix is unknown, the place is taken or cannot be written to, or the
                past does not fit.
            ConfigError: scale or crf is impossible.
        """
        path = Path(path)
        kind = kind_of(path)
        width, height = size
        picture = Picture(
            width_px=width,
            height_px=height,
            scale=default_scale(size) if scale is None else scale,
            fps=fps,
        )
        if kind in HALVED_COLOUR and any(side % 2 for side in picture.size):
            raise ConfigError(
                f"{path.suffix} pictures need even sides and {width}x{height} px at scale"
                f" {picture.scale} has an odd one; choose scale {2 * picture.scale}"
            )
        # which kinds go on from which is for `check_past` to say
        crf = checked_crf(path, kind, None if past and kind.crf is None else crf)
        film = FilmInfo(picture=picture, crf=crf, title=title, tags=tags or {})
        check_output(path)
        if past:
            kind.check_past(past, film)
        if not overwrite and not (past and same_file(past.path, path)) and taken(path):
            raise OutputError(
                f"{path} exists already; give --overwrite to replace it, or another path"
            )
        painter = CaptionPainter(warn)
        return cls(path, film, kind, past=past, overwrite=overwrite, painter=painter)

    @property
    def picture(self) -> Picture:
        """Size and rate in the file."""
        return self.film.picture

    @property
    def seconds(self) -> float:
        """Seconds of video in the file."""
        return self.frames / self.picture.fps

    def write(self, frames: Frames, captions: Sequence[str] | None = None) -> None:
        """Append frames [N, H, W, 3], red, green, blue.

        Args:
            frames: one chunk of them.
            captions: a text to be drawn into each; empty ones draw nothing.

        Raises:
            ValueError: the frames have another size than the writer was opened with, or there are
                not as many captions.
            OutputError: the file cannot grow; says how much is kept.
        """
        expected = (self.picture.height_px, self.picture.width_px, 3)
        if frames.shape[1:] != expected:
            raise ValueError(f"frames are {frames.shape}; [N, {expected}] is expected")
        if captions is not None and len(captions) != len(frames):
            raise ValueError(f"{len(captions)} captions came with {len(frames)} frames")
        if not len(frames):
            return
        texts = Captions(captions, self._painter) if captions else None
        try:
            encoder = self._begun()
            encoder.write(frames, texts)
        except WRITE_ERRORS as error:
            raise self._stopped(error) from error
        self.frames = encoder.frames

    def sync(self) -> None:
        """Wait until all that is written has reached the disk.

        Raises:
            OutputError: it cannot; says how much is kept.
        """
        try:
            if self._encoder and not self._failed:
                self._encoder.sync()
        except WRITE_ERRORS as error:
            raise self._stopped(error) from error

    def finish(self, chapters: Sequence[Chapter] = ()) -> str | None:
        """Turn the film into an ordinary file with its index in front, and close it.

        Returns:
            None; or why that was not possible, and the film stays as it grew, which is whole.

        Raises:
            OutputError: the file's end cannot be written; says how much is kept.
        """
        try:
            why_not = self._begun().finish(chapters) if self.frames else None
        except WRITE_ERRORS as error:
            raise self._stopped(error) from error
        self.close()
        return why_not

    def close(self) -> None:
        """Close the file as it has grown; closing twice is allowed.

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
                self._encoder = encoder
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

    def _begun(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._kind(
                self.path, self.film, past=self._past, overwrite=self._overwrite
            )
        return self._encoder

    def _stopped(self, error: OSError | FFmpegError) -> OutputError:
        self._failed = True
        self.frames = self._encoder.kept() if self._encoder else 0
        if self.path == STANDARD_OUTPUT:
            return OutputError(
                f"standard output was closed by its reader, which took {self.seconds:.2f} s"
                if error.errno == errno.EPIPE
                else f"cannot write standard output ({reason_of(error)}) after {self.seconds:.2f} s"
            )
        if error.errno == errno.ENOSPC:
            cause, remedy = f"the disk of {self.path} is full", "free some space"
        else:
            cause, remedy = f"cannot write {self.path} ({reason_of(error)})", "choose another path"
        kept = (
            f"the {self.seconds:.2f} s before that are kept" if self.frames else "nothing is kept"
        )
        return OutputError(f"{cause}: {kept}; {remedy}, then resume it or start again")


def checked_crf(path: Path, kind: EncoderKind, crf: int | None) -> int | None:
    """The constant rate factor of a film.

    Raises:
        ConfigError: it is out of range, or the kind of film has none.
    """
    if crf is None:
        return kind.default_crf
    if kind.crf is None:
        raise ConfigError(
            f"crf is {crf}, but {path} keeps pictures as they are; leave it out, or choose a video"
        )
    if crf not in kind.crf:
        raise ConfigError(f"crf is {crf}; {path} takes {kind.crf[0]} to {kind.crf[-1]}")
    return crf
