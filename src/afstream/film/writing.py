"""How a film is written, what it begins with, and the writer that both ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afstream.film.record import CueEntry, Origin
from afstream.film.states import Warn
from afstream.video import Past, VideoWriter

BURN = "burn"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOptions:
    """How a film is written.

    Attributes:
        scale: whole factor by which pictures are enlarged; None brings the shorter side to 256 px
            or more.
        crf: quality of the encoder, lower is better; None is the format's own.
        exact_frames: cut the film off after so many video frames, within a chunk if need be.
        subtitles: srt or vtt for a file beside the video, burn for the notes in the pictures.
        overwrite: whether an earlier film in the same place is replaced.
    """

    scale: int | None = None
    crf: int | None = None
    exact_frames: int | None = None
    subtitles: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a film keeps of one that was made before: its first chunks.

    Attributes:
        video: the video that they are taken from, which may be the film itself.
        frames: video frames of these chunks.
        chunks: how many they are.
        cues: the prompt changes that took effect in them.
        run: name of the run that goes on; None begins another, a branch.
        origin: what the record says of a branch.
    """

    video: Path
    frames: int
    chunks: int
    cues: Sequence[CueEntry] = ()
    run: str | None = None
    origin: Origin | None = None


def open_writer(
    video: Path,
    options: FilmOptions,
    *,
    size: tuple[int, int],
    fps: int,
    title: str = "",
    tags: Mapping[str, str] | None = None,
    kept: Kept | None = None,
    warn: Warn | None = None,
) -> VideoWriter:
    """Check that a film can be written, and prepare to; see `VideoWriter.open`.

    Raises:
        OutputError: the video cannot be written, or what it shall begin with is not there.
        ConfigError: scale or quality are impossible.
    """
    return VideoWriter.open(
        video,
        size=size,
        fps=fps,
        scale=options.scale,
        crf=options.crf,
        title=title,
        tags=tags,
        overwrite=options.overwrite or kept is not None,
        past=Past(kept.video, kept.frames) if kept and kept.frames else None,
        warn=warn,
    )
