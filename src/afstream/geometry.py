"""Pixels, latent frames, chunks and tokens, derived from what a model family says of itself.

A *scene* begins at the start of a stream and at each cut; memory and VAE start afresh there, so a
scene's first latent frame is one video frame and every later one as many as the temporal stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from afstream.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """How a model family's codec cuts video into latent frames.

    Attributes:
        fps: video frames a second.
        temporal_stride: video frames that one latent frame decodes to; a scene's first latent
            frame decodes to one.
        spatial_stride: pixels along one side of a latent value.
    """

    fps: int
    temporal_stride: int
    spatial_stride: int

    def video_frames(self, latent_frames: int) -> int:
        """Video frames that a scene's first `latent_frames` latent frames decode to."""
        return 1 + self.temporal_stride * (latent_frames - 1) if latent_frames > 0 else 0

    def latent_frames(self, video_frames: int) -> int:
        """The fewest latent frames of a scene that decode to `video_frames` or more."""
        return ceil((video_frames - 1) / self.temporal_stride) + 1 if video_frames > 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkClock:
    """When chunks begin: chunks counted from a scene's start, in video frames and seconds.

    Attributes:
        format: frame rate and strides.
        chunk_frames: latent frames of one chunk.
    """

    format: VideoFormat
    chunk_frames: int

    @property
    def fps(self) -> int:
        """Video frames a second."""
        return self.format.fps

    @property
    def chunk_s(self) -> float:
        """Seconds of video in one chunk that is not a scene's first."""
        return self.chunk_frames * self.format.temporal_stride / self.fps

    def first_video_frame(self, chunk: int) -> int:
        """First video frame of a chunk."""
        return self.format.video_frames(chunk * self.chunk_frames)

    def num_video_frames(self, chunk: int) -> int:
        """Video frames of one chunk; a scene's first has fewer than the later ones."""
        return self.first_video_frame(chunk + 1) - self.first_video_frame(chunk)

    def chunk_from(self, video_frame: int) -> int:
        """The first chunk that begins at or after a video frame."""
        return ceil(self.format.latent_frames(video_frame) / self.chunk_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """One video size in pixels, latent values and tokens.

    Attributes:
        width_px: picture width, a multiple of `spatial_stride * patch`.
        height_px: picture height, likewise.
        spatial_stride: pixels along one side of a latent value.
        patch: latent values along one side of a token.
    """

    width_px: int
    height_px: int
    spatial_stride: int
    patch: int

    def __post_init__(self) -> None:
        """Refuse sizes that do not split into whole tokens."""
        step = self.spatial_stride * self.patch
        for name, size in (("width", self.width_px), ("height", self.height_px)):
            if size < step or size % step:
                raise ConfigError(
                    f"{name} is {size} px; it must be a multiple of {step}, for example"
                    f" {max(step, round(size / step) * step)}"
                )

    @property
    def latent_height(self) -> int:
        """Rows of one latent frame."""
        return self.height_px // self.spatial_stride

    @property
    def latent_width(self) -> int:
        """Columns of one latent frame."""
        return self.width_px // self.spatial_stride

    @property
    def rows(self) -> int:
        """Rows of tokens in one latent frame."""
        return self.latent_height // self.patch

    @property
    def columns(self) -> int:
        """Columns of tokens in one latent frame."""
        return self.latent_width // self.patch
