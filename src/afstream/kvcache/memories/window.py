"""The base of all memories here: a sink, and a local window of the most recent frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from afstream.config import WindowLengths
from afstream.errors import ConfigError
from afstream.kvcache.policy import Anchors, MemoryPolicy, Recache
from afstream.kvcache.positions import ABSOLUTE, Positions, Visible


@dataclass(frozen=True, kw_only=True)
class WindowMemory:
    """A sink and a local window, without junctions; a switch changes nothing but the text.

    Attributes:
        lengths: window, sink, chunk and horizon.
        positions: tri-region or absolute.
    """

    # the name that users type; every subclass has its own
    name = "window"

    lengths: WindowLengths
    positions: Positions = ABSOLUTE

    def __post_init__(self) -> None:
        """Refuse a window that does not fit into the horizon."""
        needed = self.positions.needed_frames(
            self.lengths, junction=self.num_visible > self.lengths.window_chunks
        )
        if needed > self.lengths.horizon_frames:
            raise ConfigError(
                f"window, junction and sink take {needed} latent frames; tri-region positions"
                f" have room for {self.lengths.horizon_frames}"
            )

    @property
    def settings(self) -> dict[str, object]:
        """Name, lengths and positions."""
        return {"name": self.name, **asdict(self.lengths), "positions": self.positions.name}

    @property
    def num_slots(self) -> int:
        """Sink and local window."""
        return self.lengths.window_chunks

    @property
    def num_visible(self) -> int:
        """Sink and local window, the chunk itself included."""
        return self.lengths.window_chunks

    def with_junction(self, junction: str) -> MemoryPolicy:
        """Refuse, because this memory has no junctions.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"memory {self.name!r} keeps no junction; leave the hand-over out")

    def start(self) -> Anchors:
        """The state of a new scene, whose first chunks are the sink."""
        return Anchors()

    def query_position(self, frame: int, num_frames: int) -> int:
        """See `MemoryPolicy`."""
        return self.positions.query(self.lengths, frame, num_frames)

    def visible(self, anchors: Anchors, frame: int, num_frames: int) -> list[Visible]:
        """The sink, a junction where there is one, then the local window."""
        lengths, positions = self.lengths, self.positions
        chunk, stop = lengths.chunk_frames, frame + num_frames
        # a sink that is not complete yet ends with the block
        sink = range(anchors.sink, min(anchors.sink + lengths.sink_frames, stop), chunk)
        seen = [Visible(k, positions.sink(lengths, k, k - anchors.sink)) for k in sink]
        junction = self.visible_junction(anchors, frame)
        if junction is not None:
            seen.append(Visible(junction, positions.junction(lengths, junction)))
        first = max(anchors.sink + lengths.sink_frames, stop - lengths.local_frames, anchors.floor)
        shift = self.query_position(frame, num_frames) - frame
        return seen + [Visible(k, k + shift) for k in range(first, stop, chunk)]

    def visible_junction(self, anchors: Anchors, frame: int) -> int | None:
        """First frame of the junction that a query at `frame` sees; None in this memory."""
        return None

    def held(self, anchors: Anchors) -> tuple[int, ...]:
        """No chunks beyond the visible ones."""
        return ()

    def switch(self, anchors: Anchors, frame: int) -> Recache | None:
        """Re-cache nothing: only the text changes."""
        return None

    def promote(self, anchors: Anchors, frame: int) -> None:
        """Do nothing, because this memory has no junctions."""

    def recache(self, anchors: Anchors, frame: int) -> Recache:
        """Re-cache the last W frames before `frame`, except a sink that began before them."""
        num_frames = min(self.lengths.window_frames, frame)
        first = frame - num_frames
        kept = anchors.sink + self.lengths.sink_frames if anchors.sink < first else first
        seen = self.visible(anchors, first, num_frames)
        rewritten = sorted(chunk.frame for chunk in seen if chunk.frame >= max(first, kept))
        return Recache(first, num_frames, tuple(rewritten))
