"""What the pocket model is, as far as every part of its family must know."""

from __future__ import annotations

from pathlib import Path

from afstream.config import WindowLengths
from afstream.geometry import Geometry, VideoFormat

NAME = "pocket"
# in the metadata of a model file
KIND = "afstream-pocket"
POCKET_PATH = Path(__file__).with_name("pocket.safetensors")
FORMAT = VideoFormat(fps=16, temporal_stride=4, spatial_stride=8)
GEOMETRY = Geometry(width_px=64, height_px=64, spatial_stride=FORMAT.spatial_stride, patch=2)
LENGTHS = WindowLengths(window_frames=12, sink_frames=3, chunk_frames=3, horizon_frames=21)
