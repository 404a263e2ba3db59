"""Self-attention as the public code does it, on the same backbone, to compare with.

Per layer and pass: clone the cached window, put the chunk's keys behind it, rotate all keys anew
in complex128, and run torch's attention on the result. The query is rotated as ours is, which is
less than the public code does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afstream_kernels import Backend, rope_tables
from kernel_bench.public import Tables, rotate_complex128, sdpa


class PublicContext:
    """A full window with a visible junction, keys stored without any rotation.

    An `AttentionContext`; see `afstream.attention.base`.

    Args:
        positions: temporal position of each cached chunk, then that of the query's chunk.
        grid: latent frames of a chunk, rows and columns of tokens.
        num_layers: L.
        num_heads: H.
        head_dim: D.
        dtype: of keys and values.
        device: where they live.
    """

    backend = Backend("reference", fused=False)

    def __init__(
        self,
        positions: tuple[int, ...],
        *,
        grid: tuple[int, int, int],
        num_layers: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        chunk = grid[0] * grid[1] * grid[2]
        shape = (num_layers, 1, chunk * (len(positions) - 1), num_heads, head_dim)
        self._keys = torch.randn(shape, dtype=dtype, device=device)
        self._values = torch.randn(shape, dtype=dtype, device=device)
        pairs = [
            rope_tables(at, grid=grid, head_dim=head_dim, dtype=torch.float64) for at in positions
        ]
        cos, sin = (torch.cat(part).to(device) for part in zip(*pairs, strict=True))
        self._tables = cos[:, None], sin[:, None]
        query = cos[-chunk:].float(), sin[-chunk:].float()
        self._ropes = query, (torch.ones_like(query[0]), torch.zeros_like(query[1]))

    def layer(self, index: int) -> PublicLayer:
        """One layer's part of it."""
        return PublicLayer(self._keys[index], self._values[index], self._tables, self._ropes)


class PublicLayer:
    """One layer of a `PublicContext`; a `LayerContext` that the layer hands unrotated keys."""

    backend = PublicContext.backend
    slots = None

    def __init__(
        self, keys: Tensor, values: Tensor, tables: Tables, ropes: tuple[Tables, Tables]
    ) -> None:
        self._keys, self._values, self._tables = keys, values, tables
        self.query_rope, self.key_rope = ropes

    def attend(self, query: Tensor, own: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attention [B, T, H, D] of the query to the window and its own keys and values."""
        if own is None:
            raise ValueError("the layer must hand over keys and values; there are no slots")
        keys = torch.cat([self._keys.clone(), own[0]], dim=1)
        values = torch.cat([self._values.clone(), own[1]], dim=1)
        return sdpa(query, rotate_complex128(keys, self._tables), values)
