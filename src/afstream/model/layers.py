"""One layer of the backbone: modulated self-attention, cross-attention, feed-forward.

Parameter names are those of Wan2.1 checkpoints, so that weights load without renaming.
Shapes: x [B, F, P, C] with F latent frames and P tokens of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from afstream.attention.base import KVSlots, LayerContext
from afstream.attention.rope import RopeTable
from afstream.config import BackboneConfig
from afstream.model.linear import Linear
from afstream_kernels import (
    Backend,
    linear_write,
    modulate,
    norm_rope,
    norm_rope_write,
    vendor_attention,
)


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
        """A copy at other addresses."""
        return TextKeys(self.k.clone(), self.v.clone(), self.mask)

    def copy_(self, other: TextKeys) -> None:
        """Copy the other's keys, values and mask into these tensors."""
        self.k.copy_(other.k)
        self.v.copy_(other.v)


class Modulation(NamedTuple):
    """What a timestep does in one layer, [B or 1, F or 1, 1, C] each.

    Attributes:
        shift: added to the input of self-attention, after its norm.
        scale: that input is multiplied by 1 + scale.
        gate: multiplies the output of self-attention.
        ffn_shift: likewise of the feed-forward.
        ffn_scale: likewise.
        ffn_gate: likewise.
    """

    shift: Tensor
    scale: Tensor
    gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
    ffn_gate: Tensor


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
        self.q = Linear(config.dim, config.dim)
        self.k = Linear(config.dim, config.dim)
        self.v = Linear(config.dim, config.dim)
        self.o = Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim)
        self.norm_k = RMSNorm(config.dim)


class SelfAttention(Projections):
    """Self-attention through the call's context; see `LayerContext`."""

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """[B, F, P, C] to the same."""
        tokens = x.flatten(1, 2)
        slots = context.slots
        if slots is None:
            key, value = self.keys_values(tokens, context)
            query = self._rotated(self.q(tokens), self.norm_q, context.query_rope, context)
            out = context.attend(query, (key, value))
        else:
            query = self.q(tokens), *context.query_rope
            out = context.attend(self._write(query, tokens, slots, context))
        return self.o(out.flatten(-2)).view_as(x)

    def keys_values(self, tokens: Tensor, context: LayerContext) -> tuple[Tensor, Tensor]:
        """Keys, normed and rotated, and values [B, T, H, D] of tokens [B, T, C]."""
        key = self._rotated(self.k(tokens), self.norm_k, context.key_rope, context)
        return key, self.v(tokens).view_as(key)

    def write_kv(self, x: Tensor, context: LayerContext) -> None:
        """Only write the keys and values of x [B, F, P, C]; the output is not computed."""
        slots = context.slots
        if slots is None:
            return
        self._write(None, x.flatten(1, 2), slots, context)

    def _write(
        self,
        query: tuple[Tensor, Tensor, Tensor] | None,
        tokens: Tensor,
        slots: KVSlots,
        context: LayerContext,
    ) -> Tensor:
        """Write keys and values straight into slots; return the query, normed and rotated.

        Args:
            query: [B, T, C], projected, with its cosines and sines; without one, the keys are
                returned in its place.
            tokens: [B, T, C].
            slots: where keys and values go.
            context: the layer's context.
        """
        rows = tokens[:, slots.first_row :] if slots.first_row else tokens
        project_into(self.v, rows, slots)
        key = self.k(rows)
        # the operator always norms a query as well
        cos, sin = context.key_rope
        q, cos, sin = query or (key, cos[: key.shape[1]], sin[: key.shape[1]])
        return norm_rope_write(
            q,
            key,
            self.norm_q.weight,
            self.norm_k.weight,
            cos,
            sin,
            slots.keys,
            slots.targets,
            eps=self.eps,
            backend=context.backend,
        )

    def _rotated(self, x: Tensor, norm: RMSNorm, rope: RopeTable, context: LayerContext) -> Tensor:
        """A projection [B, T, C], normed, split into heads and rotated: [B, T, H, D]."""
        return norm_rope(
            *(x, norm.weight, *rope),
            num_heads=self.num_heads,
            eps=self.eps,
            backend=context.backend,
        )


def project_into(linear: nn.Module, x: Tensor, slots: KVSlots) -> None:
    """Apply a linear map to x [B, T, C] and write the results into the values of slots."""
    # a wrapped projection, such as one with a LoRA, must be called
    if type(linear) is Linear and linear.packed is None:
        linear_write(x, linear.weight, linear.bias, slots.values, slots.targets)
        return
    parts = linear(x).split(slots.values.shape[2], dim=1)
    for target, part in zip(slots.targets, parts, strict=True):
        slots.values[:, target].flatten(2).copy_(part)


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


def modulation(rows: int, dim: int) -> nn.Parameter:
    """What is learned beside a timestep's modulation, at random: [1, rows, dim]."""
    values = torch.empty(1, rows, dim)
    # drawing numbers on the meta device would load torch's compiler, for seconds
    return nn.Parameter(values if values.is_meta else values.normal_() / dim**0.5)


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
            Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            Linear(config.ffn_dim, config.dim),
        )
        self.modulation = modulation(6, config.dim)

    def forward(
        self, x: Tensor, time: Tensor | Modulation, text: TextKeys, context: LayerContext
    ) -> Tensor:
        """One layer.

        Args:
            x: [B, F, P, C].
            time: projected timestep [B or 1, F or 1, 6, C], or what `modulated` made of it.
            text: the prompt's keys and values for this layer.
            context: self-attention of this layer.

        Returns:
            [B, F, P, C].
        """
        if self.recomputes and torch.is_grad_enabled():
            # nothing here is random, so no RNG state is saved
            return checkpoint(
                *(self._compute, x, time, text, context),
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return self._compute(x, time, text, context)

    def _compute(
        self, x: Tensor, time: Tensor | Modulation, text: TextKeys, context: LayerContext
    ) -> Tensor:
        at, backend = self.modulated(time), context.backend
        normed = modulate(x, at.shift, at.scale, eps=self.eps, backend=backend)
        # addcmul reads and writes once, so a kernel of our own would save nothing
        x = torch.addcmul(x, at.gate, self.self_attn(normed, context))
        x = x + self.cross_attn(self.norm3(x), text)
        normed = modulate(x, at.ffn_shift, at.ffn_scale, eps=self.eps, backend=backend)
        return torch.addcmul(x, at.ffn_gate, self._feed_forward(normed, backend))

    def _feed_forward(self, x: Tensor, backend: Backend) -> Tensor:
        widen, _, narrow = self.ffn
        # a wrapped projection, such as one with a LoRA, must be called
        return narrow(widen.gelu(x, backend)) if type(widen) is Linear else self.ffn(x)

    def text_keys(self, text: Tensor) -> TextKeys:
        """A prompt's keys and values for this layer; see `CrossAttention.text_keys`."""
        return self.cross_attn.text_keys(text)

    def write_kv(self, x: Tensor, time: Tensor | Modulation, context: LayerContext) -> None:
        """Only write the keys and values of x [B, F, P, C]; see `forward`."""
        at = self.modulated(time)
        normed = modulate(x, at.shift, at.scale, eps=self.eps, backend=context.backend)
        self.self_attn.write_kv(normed, context)

    def modulated(self, time: Tensor | Modulation) -> Modulation:
        """This layer's modulation at a projected timestep [B or 1, F or 1, 6, C]."""
        if isinstance(time, Modulation):
            return time
        return Modulation(*(self.modulation + time).unsqueeze(-2).unbind(dim=2))
