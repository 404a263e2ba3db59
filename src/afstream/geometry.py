"""Pixels, latent frames, chunks and tokens: the only home of the numbers 4, 8, 2 and 3.

A latent frame stands for `TEMPORAL_STRIDE` video frames, the first of a scene for one.
A *scene* begins at the start of a stream and at each cut; memory and VAE start afresh
there, so a scene's first chunk gives 9 video frames and every later one 12.
"""

from __future__ import annotations

from dataclasses import dataclass

from afstream.errors import ConfigError

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8
PATCH = 2
CHUNK_FRAMES = 3
FPS = 16


def video_frames(latent_frames: int) -> int:
    """Video frames that the first `latent_frames` latent frames of a scene decode to."""
    return 1 + TEMPORAL_STRIDE * (latent_frames - 1) if latent_frames > 0 else 0


def chunk_video_frames(index_in_scene: int, chunk_frames: int = CHUNK_FRAMES) -> int:
    """Video frames of one chunk, counted from its scene's start (0 is the first)."""
    start = index_in_scene * chunk_frames
    return video_frames(start + chunk_frames) - video_frames(start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """One video size seen as latents and as tokens.

    Attributes:
        width_px: picture width, a multiple of 16.
        height_px: picture height, a multiple of 16.
    """

    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        """Refuse sizes that do not split into whole tokens."""
        step = SPATIAL_STRIDE * PATCH
        for name, size in (("width", self.width_px), ("height", self.height_px)):
            if size < step or size % step:
                raise ConfigError(
                    f"{name} is {size} px; it must be a multiple of {step}, for example"
                    f" {max(step, round(size / step) * step)}"
                )

    @property
    def latent_height(self) -> int:
        """Rows of one latent frame."""
        return self.height_px // SPATIAL_STRIDE

    @property
    def latent_width(self) -> int:
        """Columns of one latent frame."""
        return self.width_px // SPATIAL_STRIDE
