"""H.264 in an mp4 made of fragments, one a chunk.

A player needs only the header and whole fragments, so the file can be played up to its last chunk
while it grows and after the process was killed. FFmpeg's muxer holds a fragment back until the next
one begins. Here every chunk is muxed by itself in memory and appended with a single write, so
nothing is held back and memory does not depend on the length.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
from av.packet import Packet
from av.video.frame import PictureType
from av.video.stream import VideoStream

from afstream.video.picture import Frames, Picture, Scaler, mark_colours

# Measured at 256x256 on one core: 0.7 ms a frame, against 1.6 (superfast) and 2.5 (veryfast).
# zerolatency gives every frame's packet at once, so that a chunk's packets are complete.
ENCODER = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18"}
MUXER = {
    # frag_discont keeps the true time stamps although each chunk has a muxer of its own.
    "movflags": "empty_moov+default_base_moof+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",
    "fflags": "+bitexact",
}
# Keyframes are placed by hand, at each chunk's first frame.
NO_OTHER_KEYFRAMES = 1 << 20


class FragmentedMp4:
    """An mp4 file that is complete after every chunk."""

    def __init__(self, path: Path, picture: Picture) -> None:
        self._scaler = Scaler(picture)
        self._time_base = Fraction(1, picture.fps)
        self._chunks = 0
        self._frames = 0
        # The encoder belongs to a container that is never written to: FFmpeg wants one to
        # know that headers go to the file's start, and each chunk's muxer copies its stream.
        self._container = av.open(io.BytesIO(), "w", format="mp4")
        stream = self._container.add_stream("libx264", rate=picture.fps, options=ENCODER)
        stream.width, stream.height = picture.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = NO_OTHER_KEYFRAMES
        # Threads would save little on so small a picture and take cores from the model.
        stream.codec_context.thread_count = 1
        mark_colours(stream.codec_context)
        self._container.start_encoding()
        self._stream = stream
        self._file = path.open("wb", buffering=0)

    def write(self, frames: Frames) -> None:
        """Append frames [N, H, W, 3] as one fragment."""
        fragment = self._mux(self._encode(frames))
        whole = self._file.tell()
        try:
            rest = memoryview(fragment)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            # A full disk may take part of a fragment; everything before it is kept.
            self._file.truncate(whole)
            raise

    def close(self) -> None:
        """Close the file, which is complete already."""
        self._container.close()
        self._file.close()

    def _encode(self, frames: Frames) -> list[Packet[VideoStream]]:
        packets: list[Packet[VideoStream]] = []
        for index, frame in enumerate(self._scaler.scaled(frames, "yuv420p")):
            frame.pts = self._frames + index
            frame.time_base = self._time_base
            frame.pict_type = PictureType.NONE if index else PictureType.I
            packets += self._stream.encode(frame)
        self._frames += len(frames)
        return packets

    def _mux(self, packets: list[Packet[VideoStream]]) -> bytes:
        self._chunks += 1
        memory = io.BytesIO()
        options = MUXER | {"fragment_index": str(self._chunks)}
        with av.open(memory, "w", format="mp4", options=options) as muxer:
            stream = muxer.add_stream_from_template(self._stream)
            for packet in packets:
                packet.stream = stream
                muxer.mux_one(packet)
        data = memory.getvalue()
        # Every muxer writes the header; the file needs it once.
        size_bytes = 4
        return data if self._chunks == 1 else data[data.index(b"moof") - size_bytes :]
