"""Model calls over whole clips; the bidirectional model is one whose frames all see each other.

Teacher and critic are bidirectional: the weights of a causal model, another window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afstream.attention.clip import FULL, ClipContext, ClipLayout
from afstream.attention.rope import RopeTables
from afstream.engine.schedule import TIMESTEPS, clean_from_flow
from afstream.model.dit import Backbone, TextContext
from afstream_kernels import choose_backend


def clip_context(
    model: Backbone,
    layout: ClipLayout,
    grid: tuple[int, int, int],
    rope: torch.dtype | None = None,
) -> ClipContext:
    """Attention of a model's call over a clip.

    `grid` is latent frames of a block, then rows and columns of latent values (F, h, w); `rope` the
    rotation tables' dtype, by default the model's own.
    """
    patch = model.config.patch
    return ClipContext(
        layout,
        grid=(grid[0], grid[1] // patch, grid[2] // patch),
        rope=RopeTables(model.config.head_dim, rope or model.dtype, model.device),
        backend=choose_backend(None, device=model.device, dtype=model.dtype),
    )


def predict_flow(model: Backbone, noisy: Tensor, timestep: Tensor, text: TextContext) -> Tensor:
    """The flow [B, F, C, h, w] of a noisy clip of that shape, its frames at positions 0 .. F-1.

    The timestep [B] is on the scale of 0 .. 1000, one for all frames of a clip.
    """
    _, frames, _, height, width = noisy.shape
    context = clip_context(model, FULL, (frames, height, width), noisy.dtype)
    return model(noisy, model.time_context(timestep[:, None]), text, context)


def predict_clean(model: Backbone, noisy: Tensor, timestep: Tensor, text: TextContext) -> Tensor:
    """The clean clip [B, F, C, h, w] that the predicted flow leads to, in float64."""
    flow = predict_flow(model, noisy, timestep, text)
    sigma = (timestep.double() / TIMESTEPS)[:, None, None, None, None]
    return clean_from_flow(noisy.double(), flow, sigma)
