"""What a tiny VAE would take, for a plan that proposes one before its file is there.

Sizes of the public layout (TAEHV's `taew2_1`). A tiny VAE that is asked for is opened and counted
like any other decoder.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from afstream.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE
from afstream.memory_plan.calls import DecodeBytes

CHANNELS, COLOURS = 16, 3
WIDTHS = (256, 128, 64, 64)
# frames that each stage makes of one, and what it has: memory blocks of three convolutions
TIMES = (1, 2, 2)
BLOCKS = 3
KERNEL = 9


def tiny_weight_bytes(dtype: torch.dtype) -> int:
    """Of the decoder's weights."""
    count = _convolution(CHANNELS, WIDTHS[0]) + _convolution(WIDTHS[-1], COLOURS)
    for times, (width, narrow) in zip(TIMES, pairwise(WIDTHS), strict=True):
        count += BLOCKS * (_convolution(2 * width, width) + 2 * _convolution(width, width))
        # growth in time and the convolution behind it have no bias
        count += times * width**2 + KERNEL * width * narrow
    return count * dtype.itemsize


def tiny_decoding(shape: tuple[int, ...], dtype: torch.dtype) -> DecodeBytes:
    """A formula in the place of counting.

    The state is a frame of every memory block. The most is needed in the last stage, where four
    frames of the picture's size go into the last wide convolution and come out of it; the
    pictures made so far lie beside them.

    Args:
        shape: of a chunk of latents, (B, c, C, h, w).
        dtype: of the weights.
    """
    batch, frames, _, height, width = shape
    state, scale = 0, 1
    for channels in WIDTHS[:-1]:
        state += BLOCKS * channels * height * width * scale**2
        scale *= 2
    pixels = batch * height * width * SPATIAL_STRIDE**2
    widest = 2 * TEMPORAL_STRIDE * WIDTHS[-1] * pixels
    pictures = 2 * TEMPORAL_STRIDE * frames * COLOURS * pixels
    # the old state lies there until the new one is complete
    return DecodeBytes(
        state=batch * state * dtype.itemsize,
        work=(widest + pictures + batch * state) * dtype.itemsize,
    )


def _convolution(inputs: int, outputs: int) -> int:
    return KERNEL * inputs * outputs + outputs
