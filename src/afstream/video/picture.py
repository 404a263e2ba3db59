"""The size and rate of a video file, and frames brought to that size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""Pictures [N, H, W, 3], red, green, blue, 0..255."""

COMFORTABLE_PX = 256
BT709 = 1
LIMITED_RANGE = 1


def default_scale(size: tuple[int, int]) -> int:
    """The smallest whole factor that enlarges the shorter side to 256 px or more.

    Args:
        size: width and height of the frames, px.
    """
    return max(1, -(-COMFORTABLE_PX // min(size)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """How a model's frames become a file's pictures.

    Attributes:
        width_px: width of the model's frames.
        height_px: height of the model's frames.
        scale: whole factor by which they are enlarged in the file.
        fps: video frames per second.
    """

    width_px: int
    height_px: int
    scale: int
    fps: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the file, px."""
        return self.width_px * self.scale, self.height_px * self.scale


@dataclass(slots=True)
class Scaler:
    """Enlarges frames and converts their pixels, one at a time."""

    picture: Picture
    # One for the whole stream: it keeps its filter tables from frame to frame.
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def scaled(self, frames: Frames, pixels: str) -> Iterator[VideoFrame]:
        """Frames [N, H, W, 3] one by one in the file's size, as `pixels` (rgb24, yuv420p)."""
        width, height = self.picture.size
        for frame in frames:
            yield self._reformatter.reformat(
                VideoFrame.from_ndarray(frame, format="rgb24"),
                width,
                height,
                pixels,
                dst_colorspace=Colorspace.ITU709 if pixels == "yuv420p" else None,
                # Nearest shows stairs and Lanczos shows halos round a small model's shapes; all
                # three cost the same here.
                interpolation=Interpolation.BICUBIC,
            )


def mark_colours(codec: VideoCodecContext) -> None:
    """Write into the file which yuv420p `Scaler` makes; players would guess by size."""
    codec.colorspace = BT709
    codec.color_primaries = BT709
    codec.color_trc = BT709
    codec.color_range = LIMITED_RANGE
