"""Memory policies by name; a new one is a file in this folder and a row of `MEMORIES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from afstream.config import WindowLengths
from afstream.errors import ConfigError
from afstream.kvcache.memories.anchor import Anchor
from afstream.kvcache.memories.recache import RecacheWindow, Recapture
from afstream.kvcache.memories.rolling import Clear, Rolling
from afstream.kvcache.policy import MemoryPolicy


def _without_sink(lengths: WindowLengths) -> WindowLengths:
    return replace(lengths, sink_frames=0)


MEMORIES: dict[str, Callable[[WindowLengths], MemoryPolicy]] = {
    "anchor": lambda lengths: Anchor(lengths=lengths),
    "recache": lambda lengths: RecacheWindow(lengths=lengths),
    "recapture": lambda lengths: Recapture(lengths=lengths),
    "rolling": lambda lengths: Rolling(lengths=_without_sink(lengths)),
    "clear": lambda lengths: Clear(lengths=_without_sink(lengths)),
}


def memory_policy(
    name: str, lengths: WindowLengths, *, junction: str | None = None
) -> MemoryPolicy:
    """A memory by name, with another junction hand-over if one is given.

    Args:
        name: a key of `MEMORIES`.
        lengths: what the model was trained for.
        junction: hold or gap, for a memory with junctions.

    Raises:
        ConfigError: unknown name, lengths that do not fit, or a hand-over that it cannot take.
    """
    if name not in MEMORIES:
        raise ConfigError(f"memory is {name!r}; choose one of {', '.join(MEMORIES)}")
    policy = MEMORIES[name](lengths)
    return policy if junction is None else policy.with_junction(junction)


__all__ = ["MEMORIES", "MemoryPolicy", "memory_policy"]
