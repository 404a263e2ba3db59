"""What public code does in the place of our kernels: rotate anew, concatenate, call torch.

Written to be kind to it: tables and the rotated query are ready, and no cache is cloned as a
whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Tables = tuple[Tensor, Tensor]

SDPA_BACKENDS: Mapping[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def rotate_complex128(x: Tensor, tables: Tables) -> Tensor:
    """Rotate x [..., D] by float64 tables that broadcast to [..., D / 2], as complex numbers."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(*tables)).flatten(-2).to(x.dtype)


def rotate_float32(x: Tensor, tables: Tables) -> Tensor:
    """Rotate x [..., D] by float32 tables that broadcast to [..., D / 2], as real numbers."""
    cos, sin = tables
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


# How it rotates, and the dtype of the tables that it takes.
ROTATIONS: Mapping[str, tuple[Callable[[Tensor, Tables], Tensor], torch.dtype]] = {
    "complex128": (rotate_complex128, torch.float64),
    "float32": (rotate_float32, torch.float32),
}


def sdpa(q: Tensor, keys: Tensor, values: Tensor, backend: SDPBackend | None = None) -> Tensor:
    """Torch's own attention of q [B, T, H, D] over keys and values [B, K, H, D].

    Raises:
        RuntimeError: the backend cannot run it.
    """
    q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
    with nullcontext() if backend is None else sdpa_kernel(backend):
        out = functional.scaled_dot_product_attention(q, keys, values)
    return out.transpose(1, 2)
