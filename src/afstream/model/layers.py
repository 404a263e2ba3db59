"""One layer of the backbone: modulated self-attention, cross-attention, feed-forward.

Parameter names are those of Wan2.1 checkpoints, so that weights load without renaming.
Shapes: x [B, F, P, C] with F latent frames and P tokens of a frame.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from afstream.config import BackboneConfig
from afstream_kernels import Backend, modulate, vendor_attention


class LayerAttention(Protocol):
    """Self-attention of one layer; see `afstream.kvcache.window.LayerWindow`.

    Attributes:
        backend: of the kernels.
    """

    backend: Backend

    def attend(self, tokens: Tensor, weights: Projections) -> Tensor:
        """Tokens [B, T, C] to attention's output [B, T, C], before the output projection."""
        ...

    def write(self, tokens: Tensor, weights: Projections) -> None:
        """Only keep the keys and values of tokens [B, T, C]."""
        ...


class AttentionWindow(Protocol):
    """What a model call looks at; see `afstream.kvcache.window.Window`.

    Attributes:
        backend: of the kernels.
    """

    @property
    def backend(self) -> Backend:
        """Of the kernels."""
        ...

    def layer(self, index: int) -> LayerAttention:
        """One layer's part of it."""
        ...


class TextKeys(NamedTuple):
    """Keys and values of prompts for one layer's cross-attention, [B, T, H, D].

    Attributes:
        k: keys.
        v: values.
        mask: which rows each token may read, [F * P, T] true where it may; None means all.
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None = None

    def clone(self) -> TextKeys:
        """The same at other addresses."""
        return TextKeys(self.k.clone(), self.v.clone(), self.mask)

    def copy_(self, other: TextKeys) -> None:
        """Take over the other's keys and values, address by address."""
        self.k.copy_(other.k)
        self.v.copy_(other.v)


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

    def forward(self, x: Tensor, attention: LayerAttention) -> Tensor:
        """[B, F, P, C] to the same."""
        return self.o(attention.attend(x.flatten(1, 2), self)).view_as(x)


class CrossAttention(Projections):
    """Attention over a prompt's rows, padding included, without RoPE."""

    def text_keys(self, text: Tensor) -> TextKeys:
        """Project embedded text [B, T, C] once per prompt."""
        k = self._normed(self.k(text), self.norm_k)
        return TextKeys(self._heads(k), self._heads(self.v(text)))

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:
        """[B, F, P, C] to the same."""
        q = self._heads(self._normed(self.q(x.flatten(1, 2)), self.norm_q))
        out = vendor_attention(q, text.k, text.v, text.mask)
        return self.o(out.flatten(-2)).view_as(x)

    def _normed(self, x: Tensor, norm: RMSNorm) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], norm.weight, self.eps)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, H * D] -> [B, T, H, D]."""
        return x.unflatten(-1, (self.num_heads, -1))


class Layer(nn.Module):
    """Self-attention and feed-forward under the timestep's modulation, text in between."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.dim = config.dim
        self.eps = config.eps
        self.recomputes = False
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, time: Tensor, text: TextKeys, attention: LayerAttention) -> Tensor:
        """One layer.

        Args:
            x: [B, F, P, C].
            time: projected timestep [B or 1, F or 1, 6, C].
            text: the prompt's keys and values for this layer.
            attention: self-attention of this layer.

        Returns:
            [B, F, P, C].
        """
        if self.recomputes and torch.is_grad_enabled():
            # nothing here is random, so there is no state to keep
            return checkpoint(
                *(self._compute, x, time, text, attention),
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return self._compute(x, time, text, attention)

    def _compute(
        self, x: Tensor, time: Tensor, text: TextKeys, attention: LayerAttention
    ) -> Tensor:
        vectors = self._vectors(time)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = vectors
        backend = attention.backend
        normed = modulate(x, shift, scale, eps=self.eps, backend=backend)
        # addcmul reads and writes once: there is nothing for a kernel of our own to save
        x = torch.addcmul(x, gate, self.self_attn(normed, attention))
        x = x + self.cross_attn(self.norm3(x), text)
        normed = modulate(x, ffn_shift, ffn_scale, eps=self.eps, backend=backend)
        return torch.addcmul(x, ffn_gate, self.ffn(normed))

    def text_keys(self, text: Tensor) -> TextKeys:
        """A prompt's keys and values for this layer; see `CrossAttention.text_keys`."""
        return self.cross_attn.text_keys(text)

    def remember(self, x: Tensor, time: Tensor, attention: LayerAttention) -> None:
        """Only the keys and values of x [B, F, P, C]; see `forward`."""
        shift, scale = self._vectors(time)[:2]
        normed = modulate(x, shift, scale, eps=self.eps, backend=attention.backend)
        attention.write(normed.flatten(1, 2), self.self_attn)

    def _vectors(self, time: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, then of the feed-forward, [B, F, 1, C] each."""
        return (self.modulation + time).unsqueeze(-2).unbind(dim=2)
