"""Packets to the bytes of a file: piece by piece while it grows, and all at once at its end.

A player needs only the header and whole pieces, so a growing file can be played up to its last
chunk. FFmpeg's muxers hold a piece back until the next one begins. Here every chunk is muxed by
itself in memory, so that nothing is held back and memory does not depend on the length.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from afstream.video import h264
from afstream.video.existing import ExistingFilm, h264_stream, opened
from afstream.video.info import Chapter, FilmInfo, chapter_spans
from afstream.video.pieces import PiecesOf, mkv_pieces, mp4_pieces

# bitexact leaves out dates and random numbers: the same frames give the same bytes.
BITEXACT = {"fflags": "+bitexact"}
# A chunk stays in one cluster unless it lasts half a minute, which no 16-bit time stamp can hold.
ONE_CLUSTER = {"cluster_size_limit": str(2**31 - 1), "cluster_time_limit": "30000"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A kind of file, as FFmpeg's muxer writes it.

    Attributes:
        format: name of the muxer.
        piece: options that give a header and pieces, which keep their own time stamps.
        whole: options that give a file with its index in front.
        pieces_of: finds the pieces again.
    """

    format: str
    piece: Mapping[str, str]
    whole: Mapping[str, str]
    pieces_of: PiecesOf

    def piece_options(self, first_frame: int) -> dict[str, str]:
        """Options for the chunk that begins with a frame."""
        options = {**BITEXACT, **self.piece, "avoid_negative_ts": "disabled"}
        # Fragments carry rising numbers, counted from 1.
        return options | ({"fragment_index": str(first_frame + 1)} if "movflags" in options else {})


FRAGMENTS = {"movflags": "empty_moov+default_base_moof+frag_discont+skip_trailer"}
INDEX_IN_FRONT = {"movflags": "faststart"}
MP4 = Container(format="mp4", piece=FRAGMENTS, whole=INDEX_IN_FRONT, pieces_of=mp4_pieces)
MOV = Container(format="mov", piece=FRAGMENTS, whole=INDEX_IN_FRONT, pieces_of=mp4_pieces)
MKV = Container(
    format="matroska",
    piece={"live": "1", **ONE_CLUSTER},
    whole={"cues_to_front": "1"},
    pieces_of=mkv_pieces,
)


class PieceMuxer:
    """Makes the header and the pieces of one growing file."""

    def __init__(self, container: Container, film: FilmInfo) -> None:
        self._container = container
        self._film = film
        # Never written to: FFmpeg wants an open encoder in a container that has global headers,
        # and each chunk's muxer copies its stream.
        self._template = av.open(io.BytesIO(), "w", format="mp4")
        self._stream = self._template.add_stream(
            h264.CODEC, rate=film.picture.fps, options=h264.options(film)
        )
        h264.configure(self._stream.codec_context, film)
        self._template.start_encoding()

    def piece(self, packets: Sequence[bytes], first_frame: int) -> tuple[bytes, bytes]:
        """The file's header, and the piece of a chunk.

        Args:
            packets: of one chunk, in Annex B.
            first_frame: number of the first one.
        """
        memory = io.BytesIO()
        options = self._container.piece_options(first_frame)
        with av.open(memory, "w", format=self._container.format, options=options) as muxer:
            muxer.metadata.update(self._film.metadata)
            stream = muxer.add_stream_from_template(self._stream)
            for index, data in enumerate(packets):
                packet = Packet(data)
                packet.is_keyframe = not index
                self._mux(muxer, packet, stream, first_frame + index)
        data = memory.getvalue()
        start = self._container.pieces_of(memory).starts[0]
        return data[:start], data[start:]

    def finish(self, source: ExistingFilm, file: BinaryIO, chapters: Sequence[Chapter]) -> None:
        """Write all packets of a growing film as an ordinary file.

        Raises:
            OSError: the file cannot be written.
            FFmpegError: likewise.
            OutputError: the source is damaged.
        """
        fps = self._film.picture.fps
        spans = chapter_spans(chapters, frames=source.frames, fps=fps)
        with (
            opened(source.file, source.format, source.end) as whole,
            av.open(
                file,
                "w",
                format=self._container.format,
                options={**BITEXACT, **self._container.whole},
                # The muxer reads back what it moves to make room for the index.
                io_open=lambda *_: ReadBack(file),
            ) as muxer,
        ):
            muxer.metadata.update(self._film.metadata)
            muxer.set_chapters(
                [
                    {
                        "id": number,
                        "start": start,
                        "end": end,
                        "time_base": Fraction(1, fps),
                        "metadata": {"title": title},
                    }
                    for number, (start, end, title) in enumerate(spans, 1)
                ]
            )
            stream = muxer.add_stream_from_template(h264_stream(whole, source.path))
            for frame, packet in enumerate(source.packets(source.frames)):
                self._mux(muxer, packet, stream, frame)

    def close(self) -> None:
        """Let go of the encoder."""
        self._template.close()

    def _mux(
        self,
        muxer: OutputContainer,
        packet: Packet[Stream] | Packet[VideoStream],
        stream: VideoStream,
        frame: int,
    ) -> None:
        packet.time_base = Fraction(1, self._film.picture.fps)
        packet.pts = packet.dts = frame
        packet.duration = 1
        packet.stream = stream
        muxer.mux_one(packet)


class ReadBack(io.RawIOBase):
    """Reads a file that is being written, and leaves the writer where it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes."""
        written = self._file.tell()
        self._file.seek(self._at)
        data = self._file.read(size)
        self._file.seek(written)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to an offset."""
        if whence != io.SEEK_SET:
            raise OSError("only offsets from the start are known")
        self._at = offset
        return offset

    def tell(self) -> int:
        """The offset."""
        return self._at


def chunks_with_starts(source: ExistingFilm, frames: int) -> Iterator[tuple[int, list[bytes]]]:
    """The first frame's number and the packets of each chunk."""
    first = 0
    for packets in source.chunks(frames):
        yield first, packets
        first += len(packets)
