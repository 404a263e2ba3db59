"""The bidirectional model: a backbone whose frames all see each other, at positions 0 .. n-1.

Teacher and critic are this: the same weights as the causal model, another window.
"""

from __future__ import annotations

from torch import Tensor

from afstream.config import BackboneConfig
from afstream.engine.schedule import TIMESTEPS, clean_from_flow
from afstream.geometry import PATCH
from afstream.kvcache.window import block_tables, project_with_gradients
from afstream.model.dit import Backbone, TextContext
from afstream.model.layers import Projections
from afstream_kernels import Backend, choose_backend, vendor_attention


class ClipWindow:
    """Self-attention among all tokens of a clip, with gradients.

    Args:
        config: heads and their width.
        latents: of the clip [B, F, C, h, w], for its size, device and dtype.
        backend: of the kernels.
    """

    def __init__(self, config: BackboneConfig, latents: Tensor, backend: Backend) -> None:
        frames, rows, columns = latents.shape[1], *(size // PATCH for size in latents.shape[-2:])
        self.backend: Backend = backend
        self._tables = block_tables(
            (frames, rows, columns), config.head_dim, latents.dtype, latents.device
        )

    def layer(self, index: int) -> ClipWindow:
        """The same for every layer."""
        del index
        return self

    def attend(self, tokens: Tensor, weights: Projections) -> Tensor:
        """Tokens [B, T, C] to attention's output [B, T, C], before the output projection."""
        query, key, value = project_with_gradients(tokens, weights, self._tables, self.backend)
        return vendor_attention(query, key, value).flatten(-2)

    def write(self, tokens: Tensor, weights: Projections) -> None:
        """Nothing is kept: a clip is seen whole in each call."""


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
    window = ClipWindow(model.config, noisy, backend)
    return model(noisy, model.time_context(timestep[:, None]), text, window)


def predict_clean(model: Backbone, noisy: Tensor, timestep: Tensor, text: TextContext) -> Tensor:
    """The clean clip [B, F, C, h, w] that the predicted flow leads to, in float64."""
    flow = predict_flow(model, noisy, timestep, text)
    sigma = (timestep.double() / TIMESTEPS)[:, None, None, None, None]
    return clean_from_flow(noisy.double(), flow, sigma)
