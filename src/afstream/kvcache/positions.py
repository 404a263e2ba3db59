"""Temporal RoPE positions of a query and of the chunks that it sees, in latent frames.

For a query block of n frames from frame f on (n = c for a chunk, up to W in a re-cache), with
q = min(H - n, f), tri-region RoPE puts

1. the query at q .. q + n - 1;
2. the sink at 0 .. S - 1;
3. the junction at H - W - c .. H - W - 1;
4. a local frame k at q + k - f, so that the newest stands with the query.

However long a stream runs, every distance stays inside the horizon H. Absolute positions put every
frame at its own index instead.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from afstream.config import WindowLengths


class Visible(NamedTuple):
    """One chunk that a query sees: its first latent frame and the position it is read at."""

    frame: int
    position: int


class Positions(Protocol):
    """Positions of a query, the sink and the junction; local frames follow from the query."""

    @property
    def name(self) -> str:
        """The name in a run record."""
        ...

    def query(self, lengths: WindowLengths, frame: int, num_frames: int) -> int:
        """Position of the first of `num_frames` query frames that start at `frame`."""
        ...

    def sink(self, lengths: WindowLengths, frame: int, offset: int) -> int:
        """Position of the sink's frame `frame`, `offset` frames after the sink's first."""
        ...

    def junction(self, lengths: WindowLengths, frame: int) -> int:
        """Position of a junction that begins at `frame`."""
        ...

    def needed_frames(self, lengths: WindowLengths, *, junction: bool) -> int:
        """The most positions in use; they must not exceed the horizon."""
        ...


class TriRegion:
    """Tri-region RoPE; equations 1 to 3."""

    name = "tri-region"

    def query(self, lengths: WindowLengths, frame: int, num_frames: int) -> int:
        """Equation 1."""
        return min(lengths.horizon_frames - num_frames, frame)

    def sink(self, lengths: WindowLengths, frame: int, offset: int) -> int:
        """Equation 2."""
        return offset

    def junction(self, lengths: WindowLengths, frame: int) -> int:
        """Equation 3."""
        return lengths.horizon_frames - lengths.window_frames - lengths.chunk_frames

    def needed_frames(self, lengths: WindowLengths, *, junction: bool) -> int:
        """Sink, junction and local window, none of which may overlap."""
        return lengths.window_frames + junction * (lengths.chunk_frames + lengths.sink_frames)


class Absolute:
    """Every frame at its own index, without bound."""

    name = "absolute"

    def query(self, lengths: WindowLengths, frame: int, num_frames: int) -> int:
        """The frame's index."""
        return frame

    def sink(self, lengths: WindowLengths, frame: int, offset: int) -> int:
        """The frame's index."""
        return frame

    def junction(self, lengths: WindowLengths, frame: int) -> int:
        """The frame's index."""
        return frame

    def needed_frames(self, lengths: WindowLengths, *, junction: bool) -> int:
        """None are limited: the horizon does not apply."""
        return 0


TRI_REGION = TriRegion()
ABSOLUTE = Absolute()
