"""Which chunks a query sees, and at which temporal positions: tri-region RoPE.

Everything here is host integers in latent frames. For a query block of n frames from
frame f on (n = c for a chunk, up to W in a re-cache), with q = min(H - n, f):

1. the query stands at q .. q + n - 1;
2. the sink stands at 0 .. S - 1;
3. the junction stands at H - W - c .. H - W - 1;
4. a local frame k stands at q + k - f, so the newest stands with the query.

Absolute positions put every frame at its own index instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from afstream.config import MemoryPolicy


class Visible(NamedTuple):
    """One chunk that a query sees: its first latent frame and the position it is read at."""

    frame: int
    position: int


@dataclass(slots=True)
class Anchors:
    """Which frames a stream holds on to; frames count from the scene's start.

    Attributes:
        sink: first frame of the sink; 0 until a switch replaces it.
        floor: earliest frame still remembered; above 0 after the memory was cleared.
        junction: first frame of the newest junction, None before a switch.
        previous_junction: the one before it, kept until the newest can be seen.
    """

    sink: int = 0
    floor: int = 0
    junction: int | None = None
    previous_junction: int | None = None

    def promote(self, frame: int) -> None:
        """Make the chunk at `frame` the newest junction."""
        if frame != self.junction:
            self.previous_junction, self.junction = self.junction, frame


def query_position(policy: MemoryPolicy, frame: int, num_frames: int) -> int:
    """Temporal position of the first of `num_frames` query frames starting at `frame`."""
    if policy.positions == "absolute":
        return frame
    return min(policy.horizon_frames - num_frames, frame)


def visible_junction(policy: MemoryPolicy, anchors: Anchors, frame: int) -> int | None:
    """First frame of the junction that a query at `frame` sees, None if it sees none.

    A junction is seen once the whole of it has left the local window. While the newest
    one has not, `hold` keeps showing the one before it and `gap` shows none.
    """
    if policy.junction == "none" or anchors.junction is None:
        return None
    if frame >= anchors.junction + policy.local_frames:
        return anchors.junction
    previous = anchors.previous_junction
    if policy.junction == "gap" or previous is None:
        return None
    return previous if frame >= previous + policy.local_frames else None


def visible_chunks(
    policy: MemoryPolicy, anchors: Anchors, frame: int, num_frames: int
) -> list[Visible]:
    """The chunks that a query block sees, sink first, its own chunks last.

    Args:
        policy: sizes and kind of positions.
        anchors: what the stream holds on to.
        frame: the block's first latent frame in its scene.
        num_frames: n, a multiple of the chunk.
    """
    chunk, sink_frames = policy.chunk_frames, policy.sink_frames
    stop = frame + num_frames
    shift = query_position(policy, frame, num_frames) - frame
    absolute = policy.positions == "absolute"

    seen: list[Visible] = []
    for offset in range(0, min(sink_frames, stop - anchors.sink), chunk):
        own = anchors.sink + offset
        seen.append(Visible(own, own if absolute else offset))
    junction = visible_junction(policy, anchors, frame)
    if junction is not None:
        at = policy.horizon_frames - policy.window_frames - chunk
        seen.append(Visible(junction, junction if absolute else at))
    first = max(anchors.sink + sink_frames, stop - policy.local_frames, anchors.floor)
    seen += [Visible(local, local + shift) for local in range(first, stop, chunk)]
    return seen
