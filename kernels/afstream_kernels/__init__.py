"""Tensor operations of streaming video diffusion, each defined by a short PyTorch twin.

The package knows tensors and ints only: no prompts, no streams, no models.
"""

from afstream_kernels.reference import (
    apply_rotation,
    norm_rotate,
    rms_norm,
    rotation_tables,
    segment_attention,
)

__all__ = [
    "apply_rotation",
    "norm_rotate",
    "rms_norm",
    "rotation_tables",
    "segment_attention",
]
