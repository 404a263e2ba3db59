"""Frames to a file, chunk by chunk: mp4, webm, gif, or a folder of PNGs."""

from afstream.video.picture import Picture, default_scale
from afstream.video.writer import VideoWriter, check_output, probe

__all__ = ["Picture", "VideoWriter", "check_output", "default_scale", "probe"]
