"""The bidirectional model: a backbone whose frames all see each other, at positions 0 .. n-1.

Teacher and critic are this: the same weights as the causal model, another window.
"""

from __future__ import annotations

from torch import Tensor

from afstream.attention.clip import FULL, ClipContext
from afstream.attention.rope import RopeTables
from afstream.engine.schedule import TIMESTEPS, clean_from_flow
from afstream.model.dit import Backbone, TextContext
from afstream_kernels import choose_backend


def predict_flow(model: Backbone, noisy: Tensor, timestep: Tensor, text: TextContext) -> Tensor:
    """The flow of a whole clip.

    Args:
        model: its weights.
        noisy: [B, F, C, h, w].
        timestep: [B], on the scale of 0 .. 1000, one for all frames of a clip.
        text: the prompts.

    Returns:
        [B, F, C, h, w].
    """
    backend = choose_backend(None, device=noisy.device, dtype=model.dtype)
    config = model.config
    grid = noisy.shape[1], noisy.shape[-2] // config.patch, noisy.shape[-1] // config.patch
    rope = RopeTables(config.head_dim, noisy.dtype, noisy.device)
    context = ClipContext(FULL, grid=grid, rope=rope, backend=backend)
    return model(noisy, model.time_context(timestep[:, None]), text, context)


def predict_clean(model: Backbone, noisy: Tensor, timestep: Tensor, text: TextContext) -> Tensor:
    """The clean clip [B, F, C, h, w] that the predicted flow leads to, in float64."""
    flow = predict_flow(model, noisy, timestep, text)
    sigma = (timestep.double() / TIMESTEPS)[:, None, None, None, None]
    return clean_from_flow(noisy.double(), flow, sigma)
