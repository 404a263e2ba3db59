"""Attention: what a layer asks of a call, and the backends that answer."""

from afstream.attention.base import AttentionBackend, AttentionContext, KVSlots, LayerContext
from afstream.attention.sdpa import Sdpa
from afstream.attention.slots import Reference, Triton

# One row for each name of `afstream_kernels.BACKENDS`.
ATTENTION: dict[str, AttentionBackend] = {
    "triton": Triton(),
    "sdpa": Sdpa(),
    "reference": Reference(),
}

__all__ = ["ATTENTION", "AttentionBackend", "AttentionContext", "KVSlots", "LayerContext"]
