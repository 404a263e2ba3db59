"""The sizes that kernels are measured at, as the engine comes by them."""

from __future__ import annotations

from dataclasses import dataclass

from afstream.geometry import CHUNK_FRAMES, PATCH, Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.kvcache.positions import Anchors, query_position, visible_chunks

POLICY = MemoryPolicy()
# Far enough into a scene for the window to be full and the junction to have left it.
STEADY_FRAME, JUNCTION_FRAME = 60, 30


def _offsets(anchors: Anchors, num_frames: int) -> tuple[int, ...]:
    """How far, in latent frames, a query block stands after each chunk that it sees."""
    at = query_position(POLICY, STEADY_FRAME, num_frames)
    seen = visible_chunks(POLICY, anchors, STEADY_FRAME, num_frames)
    return tuple(at - chunk.position for chunk in seen)


# Sink, junction, local window, the chunk itself; in a re-cache there is no junction as yet.
CHUNK_OFFSETS = _offsets(Anchors(junction=JUNCTION_FRAME), CHUNK_FRAMES)
RECACHE_OFFSETS = _offsets(Anchors(), POLICY.lengths.window_frames)
RECACHE_CHUNKS = POLICY.lengths.window_frames // CHUNK_FRAMES
# One more than the policy needs: the place of the chunk in the making.
NUM_SLOTS = POLICY.num_slots + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelShape:
    """A model and a picture size, as kernels see them.

    Attributes:
        name: of the size.
        rows: rows of tokens in a latent frame.
        columns: columns of tokens.
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
    def frame_tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.rows * self.columns

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk: R, the length of a slot."""
        return CHUNK_FRAMES * self.frame_tokens

    @property
    def width(self) -> int:
        """C, values of a token."""
        return self.num_heads * self.head_dim


def _shape(
    name: str, picture: Geometry, *, num_heads: int, head_dim: int, num_layers: int
) -> KernelShape:
    return KernelShape(
        name=name,
        rows=picture.latent_height // PATCH,
        columns=picture.latent_width // PATCH,
        num_heads=num_heads,
        head_dim=head_dim,
        num_layers=num_layers,
    )


PRODUCTION = _shape(
    "480p", Geometry(width_px=832, height_px=480), num_heads=12, head_dim=128, num_layers=30
)
POCKET = _shape(
    "pocket", Geometry(width_px=64, height_px=64), num_heads=6, head_dim=32, num_layers=6
)
SIZES = {shape.name: shape for shape in (PRODUCTION, POCKET)}
