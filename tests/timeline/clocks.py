"""Clocks of streams that tests plan for."""

from afstream.geometry import ChunkClock, VideoFormat


def clock(*, chunk: int = 3, stride: int = 4, fps: int = 16) -> ChunkClock:
    """A clock; without arguments that of the embedded model and of Wan2.1."""
    video = VideoFormat(fps=fps, temporal_stride=stride, spatial_stride=8)
    return ChunkClock(format=video, chunk_frames=chunk)


CLOCK = clock()
