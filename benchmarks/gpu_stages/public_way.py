"""Self-attention as the public code does it, on the same backbone, to compare with.

Per layer and pass: clone the cached window, put the chunk's keys behind it, rotate query and
all keys anew in complex128, and run torch's attention on the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afstream.model.layers import Projections
from afstream_kernels import Backend, rms_norm, rotation_tables
from kernel_bench.public import rotate_complex128, sdpa


class PublicWindow:
    """A full window with a visible junction, keys stored without any rotation.

    Args:
        positions: temporal position of each cached chunk, then that of the query's chunk.
        grid: latent frames of a chunk, rows and columns of tokens.
        num_layers: L.
        num_heads: H.
        head_dim: D.
        dtype: of keys and values.
        device: where they live.
    """

    backend: Backend = "reference"

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
            rotation_tables(at, grid=grid, head_dim=head_dim, dtype=torch.float64)
            for at in positions
        ]
        cos, sin = (torch.cat(part)[:, None].to(device) for part in zip(*pairs, strict=True))
        self._tables = cos, sin

    def layer(self, index: int) -> PublicLayer:
        """One layer's part of it."""
        return PublicLayer(self._keys[index], self._values[index], self._tables)


class PublicLayer:
    """One layer of a `PublicWindow`."""

    backend: Backend = "reference"

    def __init__(self, keys: Tensor, values: Tensor, tables: tuple[Tensor, Tensor]) -> None:
        self._keys, self._values, self._tables = keys, values, tables

    def attend(self, tokens: Tensor, weights: Projections) -> Tensor:
        """Tokens [B, T, C] to attention's output [B, T, C]."""
        heads = weights.num_heads
        q = rms_norm(weights.q(tokens), weights.norm_q.weight, weights.eps)
        k = rms_norm(weights.k(tokens), weights.norm_k.weight, weights.eps)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, weights.v(tokens)))
        keys = torch.cat([self._keys.clone(), k], dim=1)
        values = torch.cat([self._values.clone(), v], dim=1)
        own = tokens.shape[1]
        q = rotate_complex128(q, (self._tables[0][-own:], self._tables[1][-own:]))
        return sdpa(q, rotate_complex128(keys, self._tables), values).flatten(-2)
