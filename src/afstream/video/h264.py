"""H.264 chunk by chunk, without memory from one chunk to the next."""

from __future__ import annotations

from fractions import Fraction

from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from afstream.video.info import FilmInfo
from afstream.video.picture import Captions, Frames, Scaler, mark_colours

CODEC = "libx264"
CRF = range(52)
DEFAULT_CRF = 18
# A new encoder for each chunk: rate control and the numbering of keyframes carry state from chunk
# to chunk, and a film that is gone on with would differ from one made in one go. It costs 1.6 ms a
# chunk at any size. Measured on one core for chunks of 12 frames, in ms and in bytes of 12 chunks:
#                                 256x256             832x480
#   one encoder, Baseline     3.3 ms, 658 kB   21.1 ms, 4.34 MB
#   new ones, with 8x8dct     4.9 ms, 628 kB   22.7 ms, 4.14 MB   the choice: High profile, smaller
#   the same with CABAC       5.4 ms, 512 kB   45.3 ms, 3.47 MB
#   superfast                 9.0 ms, 572 kB   57.2 ms, 3.44 MB
# zerolatency gives every frame's packet at once and makes no B-frames, so packets need no order.
PRESET = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "8x8dct=1"}
# Keyframes are placed by hand, at each chunk's first frame.
NO_OTHER_KEYFRAMES = 1 << 20
START_CODE = b"\0\0\1"
LENGTH_BYTES = 4
NAL_TYPE_BITS = 0x1F
SUPPLEMENT = 6


def options(film: FilmInfo) -> dict[str, str]:
    """What x264 is told."""
    return PRESET | {"crf": str(film.crf)}


def configure(codec: VideoCodecContext, film: FilmInfo) -> None:
    """Prepare an encoder that is not open yet."""
    codec.width, codec.height = film.picture.size
    codec.pix_fmt = "yuv420p"
    codec.framerate = Fraction(film.picture.fps)
    codec.time_base = Fraction(1, film.picture.fps)
    codec.gop_size = NO_OTHER_KEYFRAMES
    # Threads would save little on so small a picture and take cores from the model.
    codec.thread_count = 1
    codec.flags |= Flags.global_header
    mark_colours(codec)


class ChunkEncoder:
    """Encodes chunks, each of which depends on nothing but its own frames."""

    def __init__(self, film: FilmInfo) -> None:
        self._film = film
        self._scaler = Scaler(film.picture)

    def encode(self, frames: Frames, captions: Captions | None) -> list[bytes]:
        """One packet for each of frames [N, H, W, 3], in Annex B; the first is a keyframe."""
        codec = VideoCodecContext.create(CODEC, "w")
        configure(codec, self._film)
        codec.options = options(self._film)
        packets: list[bytes] = []
        for index, frame in enumerate(self._scaler.scaled(frames, "yuv420p", captions)):
            frame.pts = index
            frame.time_base = codec.time_base
            frame.pict_type = PictureType.NONE if index else PictureType.I
            packets += [bytes(packet) for packet in codec.encode(frame)]
        packets += [bytes(packet) for packet in codec.encode(None)]
        return [without_supplement(packets[0]), *packets[1:]]


def without_supplement(packet: bytes) -> bytes:
    """A keyframe without the 700 bytes of text in which x264 describes itself."""
    start = packet.index(START_CODE) + len(START_CODE)
    if packet[start] & NAL_TYPE_BITS != SUPPLEMENT:
        return packet
    return b"\0" + packet[packet.index(START_CODE, start) :]


def annex_b(packet: bytes) -> bytes:
    """A packet as files hold it, with lengths, as encoders give it, with start codes.

    Raises:
        ValueError: the packet is damaged.
    """
    parts: list[bytes] = []
    rest = memoryview(packet)
    while rest:
        length = int.from_bytes(rest[:LENGTH_BYTES], "big")
        unit = rest[LENGTH_BYTES : LENGTH_BYTES + length]
        if not length or len(unit) < length:
            raise ValueError("a damaged packet")
        parts += [b"\0", START_CODE, bytes(unit)]
        rest = rest[LENGTH_BYTES + length :]
    return b"".join(parts)
