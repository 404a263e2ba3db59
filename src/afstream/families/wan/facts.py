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

# of each channel of the latents: raw = normalised * std + mean (Wan2.1, wan/modules/vae.py)
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
