"""Self-attention as the public code does it, on the same backbone, to compare with.

Per layer and pass: clone the cached window, put the chunk's keys behind it, rotate query and
all keys anew in complex128, and run torch's attention on the result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from afstream.model.layers import Projections
from afstream_kernels import Backend, rms_norm, rotation_tables


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
            torch.complex(*rotation_tables(at, grid=grid, head_dim=head_dim, dtype=torch.float64))
            for at in positions
        ]
        self._angles = torch.cat(pairs).to(device)[:, None]

    def layer(self, index: int) -> PublicLayer:
        """One layer's part of it."""
        return PublicLayer(self._keys[index], self._values[index], self._angles)


class PublicLayer:
    """One layer of a `PublicWindow`."""

    backend: Backend = "reference"

    def __init__(self, keys: Tensor, values: Tensor, angles: Tensor) -> None:
        self._keys, self._values, self._angles = keys, values, angles

    def attend(self, tokens: Tensor, weights: Projections) -> Tensor:
        """Tokens [B, T, C] to attention's output [B, T, C]."""
        heads = weights.num_heads
        q = rms_norm(weights.q(tokens), weights.norm_q.weight, weights.eps)
        k = rms_norm(weights.k(tokens), weights.norm_k.weight, weights.eps)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, weights.v(tokens)))
        keys = torch.cat([self._keys.clone(), k], dim=1)
        values = torch.cat([self._values.clone(), v], dim=1)
        q = self._rotate(q, self._angles[-q.shape[1] :])
        keys = self._rotate(keys, self._angles)
        query, key, value = (x.transpose(1, 2) for x in (q, keys, values))
        out = functional.scaled_dot_product_attention(query, key, value)
        return out.transpose(1, 2).flatten(-2)

    @staticmethod
    def _rotate(x: Tensor, angles: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)
