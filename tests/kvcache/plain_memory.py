"""Who is seen by whom, and where: the five memories in plain Python, frame by frame.

Written from the method alone (Anchor Forcing's positions, re-cache and hand-over), not from the
engine, so that the two can be held against each other. W, S, L, c and H are the method's letters:
window, sink, local budget, chunk and horizon, all in latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ANCHOR, RECACHE, RECAPTURE, ROLLING, CLEAR = "anchor", "recache", "recapture", "rolling", "clear"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One of the five memories, and its sizes in latent frames."""

    name: str
    W: int = 12
    S: int = 3
    c: int = 3
    H: int = 21
    hold: bool = True

    @property
    def L(self) -> int:  # noqa: N802  the method's letter
        return self.W - self.S

    @property
    def is_absolute(self) -> bool:
        return self.name in (RECACHE, ROLLING, CLEAR)


@dataclass(kw_only=True)
class Scene:
    """What one scene holds on to: first frames of the sink, of what is remembered, of junctions."""

    memory: Memory
    sink: int = 0
    floor: int = 0
    junctions: list[int] = field(default_factory=list[int])

    def query_position(self, f: int, n: int) -> int:
        return f if self.memory.is_absolute else min(self.memory.H - n, f)

    def visible(self, f: int, n: int) -> list[tuple[int, int]]:
        """Frames, and their positions, that a query block of n frames from frame f on attends to.

        A junction inside of the sink (a switch before the sink is full) is seen as both.
        """
        m, stop, stands = self.memory, f + n, self.query_position(f, n)
        sink = range(self.sink, min(self.sink + m.S, stop))
        junction = self.visible_junction(f)
        local = range(max(stop - m.L, self.sink + m.S, self.floor), stop)
        return [
            *((frame, frame if m.is_absolute else frame - self.sink) for frame in sink),
            *((frame, m.H - m.W - m.c + frame - junction.start) for frame in junction),
            *((frame, stands + frame - f) for frame in local),
        ]

    def visible_junction(self, f: int) -> range:
        """The newest junction once it has left the local window; `hold`: else the one before."""
        candidates = self.junctions[-1:] + (self.junctions[-2:-1] if self.memory.hold else [])
        for j in candidates:
            if f >= j + self.memory.L:
                return range(j, j + self.memory.c)
        return range(0)

    def switch(self, s: int) -> tuple[int, set[int]]:
        """A prompt switch before frame s; then `promote(s)`, where the next chunk is an anchor.

        Returns:
            How many of the last frames are passed through the model again under the new prompt,
            and which of them are written.
        """
        m, n = self.memory, min(self.memory.W, s)
        if m.name == CLEAR:
            self.floor = s
        if m.name in (ROLLING, CLEAR):
            return 0, set()
        if m.name == RECAPTURE:
            self.sink = s - n
        sink_is_kept = s > m.W and m.name != RECAPTURE
        kept = range(self.sink, self.sink + m.S) if sink_is_kept else range(0)
        return n, {k for k, _ in self.visible(s - n, n) if s - n <= k and k not in kept}

    def promote(self, s: int) -> None:
        """Make the chunk that begins at frame s a junction, after the re-cache of its switch."""
        if self.memory.name == ANCHOR and s > 0 and self.junctions[-1:] != [s]:
            self.junctions.append(s)
