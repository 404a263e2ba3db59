"""Tensor operations of streaming video diffusion, each defined by a short PyTorch twin.

The package knows tensors and ints only: no prompts, no streams, no models.
"""

from afstream_kernels.attention import slot_attention, slot_attention_lse
from afstream_kernels.dispatch import BACKENDS, AnyBackend, Backend, BackendName, choose_backend
from afstream_kernels.frames import add_up, norm_silu
from afstream_kernels.host import on_device, to_device
from afstream_kernels.linear import gelu_linear, linear_write, pack_weight, packed_linear
from afstream_kernels.norm import modulate, norm_rope, norm_rope_write
from afstream_kernels.reference import (
    apply_rope,
    channel_norm,
    rms_norm,
    rope_shift_tables,
    rope_tables,
)
from afstream_kernels.slots import copy_slots
from afstream_kernels.vendor import vendor_attention

__all__ = [
    "BACKENDS",
    "AnyBackend",
    "Backend",
    "BackendName",
    "add_up",
    "apply_rope",
    "channel_norm",
    "choose_backend",
    "copy_slots",
    "gelu_linear",
    "linear_write",
    "modulate",
    "norm_rope",
    "norm_rope_write",
    "norm_silu",
    "on_device",
    "pack_weight",
    "packed_linear",
    "rms_norm",
    "rope_shift_tables",
    "rope_tables",
    "slot_attention",
    "slot_attention_lse",
    "to_device",
    "vendor_attention",
]
