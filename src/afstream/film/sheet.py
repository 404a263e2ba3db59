"""The contact sheet of a film, which also shows the chunks that an earlier run made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio

from afstream.video.picture import Frames
from afstream.video.sheet import ContactSheet

if TYPE_CHECKING:
    from afstream.film.record import CueEntry
    from afstream.stream import Chunk


class FilmSheet:
    """A `ContactSheet` that is fed with chunks.

    Args:
        size: width and height of the frames that will come, px.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._sheet = ContactSheet(size)

    def add_kept(self, video: Path, frames: int, cues: Sequence[CueEntry], fps: int) -> None:
        """Add the first frames of a video that was made before.

        Args:
            video: the video, at any scale.
            frames: how many.
            cues: the prompt changes in them.
            fps: frames a second.
        """
        pictures = islice(_pictures(video), frames)
        starts = [round(cue.effective_s * fps) for cue in cues]
        for cue, start, stop in zip(cues, starts, [*starts[1:], frames], strict=False):
            for picture in islice(pictures, stop - start):
                self._sheet.add(
                    picture[None], segment=cue.segment, prompt=cue.prompt, start_s=cue.effective_s
                )

    def add(self, chunk: Chunk) -> None:
        """Add a chunk."""
        self._sheet.add(
            chunk.frames, segment=chunk.segment, prompt=chunk.prompt, start_s=chunk.start_s
        )

    def save(self, path: Path) -> None:
        """See `ContactSheet.save`."""
        self._sheet.save(path)


def _pictures(video: Path) -> Iterator[Frames]:
    """The pictures [H, W, 3] of a video, or of a folder of PNGs, one by one."""
    if video.is_dir():
        yield from (iio.imread(path) for path in sorted(video.glob("frame_*.png")))
    else:
        yield from iio.imiter(video, plugin="pyav")
