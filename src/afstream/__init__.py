r"""afstream: streaming, prompt-switching, long video diffusion.

Example:
    >>> from afstream import Stream, Timeline
    >>> timeline = Timeline.parse("0:00 A red star spins by the sea.\n0:02 It turns blue.")
    >>> stream = Stream.open(seed=7)
    >>> for chunk in stream.play(timeline):
    ...     for receipt in chunk.receipts:
    ...         print(f"chunk {receipt.chunk}: {receipt.prompt}")
    chunk 0: A red star spins by the sea.
    chunk 3: It turns blue.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from afstream.errors import AfstreamError
from afstream.spec import ModelSpec, StreamConfig
from afstream.timeline import Cue, Plan, Timeline

if TYPE_CHECKING:
    from afstream.checking import Checked, check
    from afstream.families.base import VideoModel
    from afstream.families.opening import open_model
    from afstream.kvcache.memories import MEMORIES
    from afstream.kvcache.policy import MemoryPolicy
    from afstream.stream import Chunk, Receipt, Stream
    from afstream.video import VideoWriter
    from afstream.video.sheet import ContactSheet

__version__ = "0.1.0"

__all__ = [
    "MEMORIES",
    "AfstreamError",
    "Checked",
    "Chunk",
    "ContactSheet",
    "Cue",
    "MemoryPolicy",
    "ModelSpec",
    "Plan",
    "Receipt",
    "Stream",
    "StreamConfig",
    "Timeline",
    "VideoModel",
    "VideoWriter",
    "check",
    "open_model",
]

# Most of these need torch or an encoder, which take seconds to import: imported on first use.
_LATE = {
    "MEMORIES": "afstream.kvcache.memories",
    "MemoryPolicy": "afstream.kvcache.policy",
    "Checked": "afstream.checking",
    "Chunk": "afstream.stream",
    "ContactSheet": "afstream.video.sheet",
    "Receipt": "afstream.stream",
    "Stream": "afstream.stream",
    "VideoModel": "afstream.families.base",
    "VideoWriter": "afstream.video",
    "check": "afstream.checking",
    "open_model": "afstream.families.opening",
}


def __getattr__(name: str) -> object:
    """Import a late name."""
    if name not in _LATE:
        raise AttributeError(f"module 'afstream' has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
