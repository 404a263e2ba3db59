"""What Wan2.1 text-to-video models are, as far as every part of their family must know."""

from __future__ import annotations

from afstream.config import WindowLengths
from afstream.geometry import Geometry, VideoFormat

FORMAT = VideoFormat(fps=16, temporal_stride=4, spatial_stride=8)
# what the public models were trained at
GEOMETRY = Geometry(width_px=832, height_px=480, spatial_stride=FORMAT.spatial_stride, patch=2)
# what the public chunk-wise students were trained for
LENGTHS = WindowLengths(window_frames=12, sink_frames=3, chunk_frames=3, horizon_frames=21)
# embeddings that a text encoder keeps; those of one prompt of Wan's length take up to 4 MB
KEPT_PROMPTS = 32
