"""Attention: what a layer asks of a call, and the backends that answer.

A new backend is a file beside these and a row in `ATTENTION`.
"""

from __future__ import annotations

import torch

from afstream.attention.base import AttentionBackend
from afstream.attention.sdpa import Sdpa
from afstream.attention.slots import Reference, Triton
from afstream.errors import ConfigError
from afstream_kernels import AnyBackend, Backend, choose_backend

ATTENTION: dict[str, AttentionBackend] = {
    "triton": Triton(),
    "sdpa": Sdpa(),
    "reference": Reference(),
}


def choose_attention(
    backend: AnyBackend, *, device: torch.device | str, dtype: torch.dtype
) -> Backend:
    """The backend for a model on a device.

    Args:
        backend: a `Backend` chosen before, a key of `ATTENTION`, or `auto`. None takes
            AFSTREAM_BACKEND, or `auto` where that is not set.
        device: where the model computes.
        dtype: of queries, keys and values.

    Raises:
        ConfigError: unknown name, or a backend that cannot run there.
    """
    if isinstance(backend, Backend):
        return backend
    try:
        if backend in ATTENTION:
            return ATTENTION[backend].backend(torch.device(device), dtype)
        return choose_backend(backend, device=device, dtype=dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error


__all__ = ["ATTENTION", "AttentionBackend", "choose_attention"]
