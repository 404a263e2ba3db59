"""What a film begins with when it goes on from another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Past:
    """What a film begins with.

    Attributes:
        path: an existing film, which may be the one that is written.
        frames: how many of its frames; a chunk must end there.
    """

    path: Path
    frames: int


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False
