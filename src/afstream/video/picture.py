"""The size and rate of a video file, and frames brought to that size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from afstream.errors import ConfigError
from afstream.video.captions import CaptionPainter

Frames = NDArray[np.uint8]
"""Pictures [N, H, W, 3], red, green, blue, 0..255."""

COMFORTABLE_PX = 256
BT709 = 1
LIMITED_RANGE = 1
# H.264's largest level holds no larger picture, and no codec here a longer side.
MAX_PICTURE_PX = 139_264 * 16 * 16
MAX_SIDE_PX = 16_384


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

    Raises:
        ConfigError: the scale is below 1, or the pictures would be too large to encode.
    """

    width_px: int
    height_px: int
    scale: int
    fps: int

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ConfigError(f"scale is {self.scale}; it must be 1 or more")
        width, height = self.size
        if max(width, height) > MAX_SIDE_PX or width * height > MAX_PICTURE_PX:
            by_side = MAX_SIDE_PX // max(self.width_px, self.height_px)
            by_area = int((MAX_PICTURE_PX / (self.width_px * self.height_px)) ** 0.5)
            raise ConfigError(
                f"scale {self.scale} makes pictures of {width}x{height} px, more than H.264 allows;"
                f" choose scale {max(min(by_side, by_area), 1)} or less"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the file, px."""
        return self.width_px * self.scale, self.height_px * self.scale


@dataclass(frozen=True, slots=True)
class Captions:
    """Texts to be drawn into frames.

    Attributes:
        texts: one for each frame; an empty one draws nothing.
        painter: draws them.
    """

    texts: Sequence[str]
    painter: CaptionPainter


@dataclass(slots=True)
class Scaler:
    """Enlarges frames and converts their pixels, one at a time."""

    picture: Picture
    # One for the whole stream: it keeps its filter tables from frame to frame.
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def scaled(
        self, frames: Frames, pixels: str, captions: Captions | None = None
    ) -> Iterator[VideoFrame]:
        """Frames [N, H, W, 3] one by one in the file's size, as `pixels` (rgb24, yuv420p).

        Captions are drawn after enlarging, so that they are as sharp as the file allows.
        """
        for index, frame in enumerate(frames):
            picture = VideoFrame.from_ndarray(frame, format="rgb24")
            text = captions.texts[index] if captions else ""
            if captions and text:
                enlarged = np.asarray(self._converted(picture, "rgb24").to_ndarray(), np.uint8)
                drawn = captions.painter.paint(enlarged, text)
                picture = VideoFrame.from_ndarray(drawn, format="rgb24")
            yield self._converted(picture, pixels)

    def _converted(self, picture: VideoFrame, pixels: str) -> VideoFrame:
        width, height = self.picture.size
        return self._reformatter.reformat(
            picture,
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
