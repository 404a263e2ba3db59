"""Frames to a film, chunk by chunk: mp4, mov, m4v, mkv, webm, gif, or a folder of PNGs."""

from afstream.video.existing import frames_in, read_tags
from afstream.video.files import probe
from afstream.video.info import Chapter, Past
from afstream.video.kinds import check_output
from afstream.video.picture import Picture, default_scale
from afstream.video.subtitles import Caption, srt, vtt
from afstream.video.writer import VideoWriter

__all__ = [
    "Caption",
    "Chapter",
    "Past",
    "Picture",
    "VideoWriter",
    "check_output",
    "default_scale",
    "frames_in",
    "probe",
    "read_tags",
    "srt",
    "vtt",
]
