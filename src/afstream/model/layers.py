"""One layer of the backbone: modulated self-attention, cross-attention, feed-forward.

Parameter names are those of Wan2.1 checkpoints, so that weights load without renaming.
Shapes: x [B, F, P, C] with F latent frames and P tokens of a frame.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from afstream.config import BackboneConfig
from afstream_kernels import rms_norm


class AttentionWindow(Protocol):
    """What a layer's self-attention looks at; see `afstream.memory.Window`."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Tensor, Tensor], eps: float
    ) -> Tensor:
        """Projections [B, T, H * D] to attention's output [B, T, H * D]."""
        ...


class TextKeys(NamedTuple):
    """Keys and values of prompts for one layer's cross-attention, [B, H, T, D].

    Attributes:
        k: keys.
        v: values.
        mask: which rows each token may read, [F * P, T] true where it may; None means all.
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None = None


class RMSNorm(nn.Module):
    """Root-mean-square norm over all heads together; holds the weight only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


class Projections(nn.Module):
    """The four projections and two norms that both kinds of attention have."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.eps = config.eps
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim)
        self.norm_k = RMSNorm(config.dim)


class SelfAttention(Projections):
    """Attention over the window that the caller opened."""

    def forward(self, x: Tensor, layer: int, window: AttentionWindow) -> Tensor:
        """[B, F, P, C] to the same."""
        tokens = x.flatten(1, 2)
        norms = (self.norm_q.weight, self.norm_k.weight)
        out = window.attend(layer, self.q(tokens), self.k(tokens), self.v(tokens), norms, self.eps)
        return self.o(out).view_as(x)


class CrossAttention(Projections):
    """Attention over a prompt's rows, padding included, without RoPE."""

    def text_keys(self, text: Tensor) -> TextKeys:
        """Project embedded text [B, T, C] once per prompt."""
        k = rms_norm(self.k(text), self.norm_k.weight, self.eps)
        return TextKeys(self._heads(k), self._heads(self.v(text)))

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:
        """[B, F, P, C] to the same."""
        q = rms_norm(self.q(x.flatten(1, 2)), self.norm_q.weight, self.eps)
        out = functional.scaled_dot_product_attention(
            self._heads(q), text.k, text.v, attn_mask=text.mask
        )
        return self.o(out.transpose(1, 2).flatten(-2)).view_as(x)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, H * D] -> [B, H, T, D]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Self-attention and feed-forward under the timestep's modulation, text in between."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.dim = config.dim
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(
        self, x: Tensor, time: Tensor, text: TextKeys, layer: int, window: AttentionWindow
    ) -> Tensor:
        """One layer.

        Args:
            x: [B, F, P, C].
            time: projected timestep [B or 1, F or 1, 6, C].
            text: the prompt's keys and values for this layer.
            layer: this layer's index.
            window: what self-attention looks at.

        Returns:
            [B, F, P, C].
        """
        vectors = (self.modulation + time).unsqueeze(-2).unbind(dim=2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = vectors
        x = x + gate * self.self_attn(modulate(x, shift, scale, self.eps), layer, window)
        x = x + self.cross_attn(self.norm3(x), text)
        return x + ffn_gate * self.ffn(modulate(x, ffn_shift, ffn_scale, self.eps))


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine, then scale and shift [B, F, 1, C]."""
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)
