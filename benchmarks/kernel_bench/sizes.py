"""The sizes at which kernels are measured, and the offsets at which the engine reads slots."""

from __future__ import annotations

from dataclasses import dataclass

from afstream.families.wan.family import WAN
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import Anchors

POLICY = memory_policy("anchor", WAN.lengths)
WINDOW_FRAMES, CHUNK_FRAMES = WAN.lengths.window_frames, WAN.lengths.chunk_frames
# Far enough into a scene for the window to be full and the junction to have left it.
STEADY_FRAME, JUNCTION_FRAME = 60, 30


def _offsets(anchors: Anchors, num_frames: int) -> tuple[int, ...]:
    """Latent frames from each visible chunk to the first frame of the query block."""
    at = POLICY.query_position(STEADY_FRAME, num_frames)
    seen = POLICY.visible(anchors, STEADY_FRAME, num_frames)
    return tuple(at - chunk.position for chunk in seen)


# Sink, junction, local window, the chunk itself. A re-cache happens before there is a junction.
CHUNK_OFFSETS = _offsets(Anchors(junction=JUNCTION_FRAME), CHUNK_FRAMES)
RECACHE_OFFSETS = _offsets(Anchors(), WINDOW_FRAMES)
RECACHE_CHUNKS = WAN.lengths.window_chunks
# The policy's slots and slot 0, which holds the chunk that is being denoised.
NUM_SLOTS = POLICY.num_slots + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelShape:
    """Sizes of a model and of a picture.

    Attributes:
        name: what users type.
        rows: rows of tokens in a latent frame.
        columns: columns of tokens in a latent frame.
        num_heads: H.
        head_dim: D.
        num_layers: L.
    """

    name: str
    rows: int
    columns: int
    num_heads: int
    head_dim: int
    num_layers: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a chunk's tokens."""
        return CHUNK_FRAMES, self.rows, self.columns

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk: R, the length of a slot."""
        return CHUNK_FRAMES * self.rows * self.columns

    @property
    def width(self) -> int:
        """C, values of a token."""
        return self.num_heads * self.head_dim

    @property
    def heads(self) -> tuple[int, int]:
        """H and D, the last two dimensions of queries, keys and values."""
        return self.num_heads, self.head_dim


# Wan 1.3B at 832x480 and the pocket model at 64x64; a token covers 16x16 px in both.
PRODUCTION = KernelShape(
    name="480p", rows=30, columns=52, num_heads=12, head_dim=128, num_layers=30
)
POCKET = KernelShape(name="pocket", rows=4, columns=4, num_heads=6, head_dim=32, num_layers=6)
SIZES = {shape.name: shape for shape in (PRODUCTION, POCKET)}
