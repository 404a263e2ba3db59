"""Tensor operations of streaming video diffusion, each defined by a short PyTorch twin.

The package knows tensors and ints only: no prompts, no streams, no models.
"""

from afstream_kernels.attention import segment_attention, segment_attention_lse
from afstream_kernels.dispatch import BACKENDS, AnyBackend, Backend, BackendName, choose_backend
from afstream_kernels.norm import modulate, norm_rotate, norm_rotate_write
from afstream_kernels.reference import apply_rotation, rms_norm, rotation_tables, turn_tables
from afstream_kernels.slots import copy_slots
from afstream_kernels.vendor import vendor_attention

__all__ = [
    "BACKENDS",
    "AnyBackend",
    "Backend",
    "BackendName",
    "apply_rotation",
    "choose_backend",
    "copy_slots",
    "modulate",
    "norm_rotate",
    "norm_rotate_write",
    "rms_norm",
    "rotation_tables",
    "segment_attention",
    "segment_attention_lse",
    "turn_tables",
    "vendor_attention",
]
