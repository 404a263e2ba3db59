"""A slow stream in plain PyTorch: every key is kept unrotated, every attention computed anew.

The backbone, the sampler and the re-cache are written from the method, the memory is
`plain_memory`. Nothing here is shared with the engine, so equal latents mean that the engine
read the right keys, in the right version, at the right positions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from tests.kvcache.plain_memory import Memory, Scene
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]


def rotate(x: Tensor, positions: Sequence[int], rows: int, columns: int) -> Tensor:
    """RoPE of x [n, P, heads, d] at one temporal position for each frame, in complex numbers."""
    pairs = x.shape[-1] // 2
    spatial = pairs // 3
    places = torch.cartesian_prod(
        *(torch.tensor(axis).double() for axis in (positions, range(rows), range(columns)))
    )
    angles = [
        place[:, None] * 10000.0 ** (-torch.arange(width).double() / max(width, 1))
        for place, width in zip(places.T, (pairs - 2 * spatial, spatial, spatial), strict=True)
    ]
    angle = torch.cat(angles, dim=-1).view(len(positions), -1, 1, pairs)
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.view_as_real(turned).flatten(-2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[T, heads, d] over [K, heads, d], heads joined again."""
    scores = torch.einsum("thd,khd->htk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("htk,khd->thd", scores.softmax(-1), v).flatten(1)


class PlainStream:
    """One stream, in float64.

    Args:
        weights: of the backbone, Wan's names.
        memory: one of the five.
        num_heads: of self- and cross-attention.
        freq_dim: width of the sinusoid.
        text_len: rows of a prompt, padding included.
        sigmas: noise share of each denoise step.
    """

    def __init__(
        self,
        weights: Weights,
        memory: Memory,
        *,
        num_heads: int,
        freq_dim: int,
        text_len: int,
        sigmas: Sequence[float],
    ) -> None:
        self.weights = {name: weight.double() for name, weight in weights.items()}
        self.memory, self.sigmas = memory, sigmas
        self.num_heads, self.freq_dim, self.text_len = num_heads, freq_dim, text_len
        self.num_layers = sum(name.endswith(".modulation") for name in weights) - 1

    def cut(self, embeds: Tensor) -> None:
        """Begin a scene under a prompt's embeddings [rows, text_dim]."""
        self.scene, self.frame = Scene(memory=self.memory), 0
        self.embeds = embeds
        self.latents = dict[int, Tensor]()
        # by layer and frame, [P, heads, d] each
        self.keys, self.values = dict[tuple[int, int], Tensor](), dict[tuple[int, int], Tensor]()

    def switch(self, embeds: Tensor, *, anchor: bool = True) -> None:
        """Change the prompt before the next chunk."""
        self.embeds = embeds
        n, written = self.scene.switch(self.frame)
        if written:
            block = torch.stack([self.latents[k] for k in range(self.frame - n, self.frame)])
            self._model(block, 0.0, self.frame - n, written, keep=True)
        if anchor:
            self.scene.promote(self.frame)

    def chunk(self, noise: Tensor) -> Tensor:
        """The next chunk [c, C, h, w] from noise [steps, c, C, h, w], and its context pass."""
        c, clean = self.memory.c, torch.zeros_like(noise[0], dtype=torch.float64)
        own = set(range(self.frame, self.frame + c))
        # sigma is 1 at first: pure noise
        for sigma, fresh in zip(self.sigmas, noise.double(), strict=True):
            noisy = (1 - sigma) * clean + sigma * fresh
            clean = noisy - sigma * self._model(noisy, 1000 * sigma, self.frame, own)
        self._model(clean, 0.0, self.frame, own, keep=True)
        self.latents |= {self.frame + index: frame for index, frame in enumerate(clean)}
        self.frame += c
        return clean

    def fork(self) -> PlainStream:
        """A stream of its own that goes on from here."""
        return copy.deepcopy(self)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _normed(self, x: Tensor, name: str) -> Tensor:
        """RMSNorm over all heads together, then [..., heads, d]."""
        scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (x * scale * self.weights[f"{name}.weight"]).unflatten(-1, (self.num_heads, -1))

    def _text(self) -> Tensor:
        padded = functional.pad(self.embeds.double(), (0, 0, 0, self.text_len - len(self.embeds)))
        hidden = functional.gelu(self._linear(padded, "text_embedding.0"), approximate="tanh")
        return self._linear(hidden, "text_embedding.2")

    def _time(self, timestep: float) -> tuple[Tensor, Tensor]:
        half = self.freq_dim // 2
        angles = timestep * 10000.0 ** (-torch.arange(half).double() / half)
        wave = torch.cat([angles.cos(), angles.sin()])
        e = self._linear(
            functional.silu(self._linear(wave, "time_embedding.0")), "time_embedding.2"
        )
        return e, self._linear(functional.silu(e), "time_projection.1").view(6, -1)

    def _model(
        self, latents: Tensor, timestep: float, f: int, own: set[int], *, keep: bool = False
    ) -> Tensor:
        """The flow of n frames from frame f on; the frames of `own` are read as they are here."""
        n, _, height, width = latents.shape
        rows, columns = height // 2, width // 2
        seen = self.scene.visible(f, n)
        stands = self.scene.query_position(f, n)
        patches = functional.conv2d(
            latents.double(),
            self.weights["patch_embedding.weight"][:, :, 0],
            self.weights["patch_embedding.bias"],
            stride=2,
        )
        x = patches.flatten(2).transpose(1, 2)  # [n, P, dim]
        e, projection = self._time(timestep)
        text = self._text()
        for layer in range(self.num_layers):
            block = f"blocks.{layer}"
            shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (
                self.weights[f"{block}.modulation"][0] + projection
            )
            y = functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            q, k = (
                self._normed(self._linear(y, f"{block}.self_attn.{name}"), f"{block}.{norm}")
                for name, norm in (("q", "self_attn.norm_q"), ("k", "self_attn.norm_k"))
            )
            v = self._linear(y, f"{block}.self_attn.v").unflatten(-1, (self.num_heads, -1))
            for frame in own if keep else ():
                self.keys[layer, frame], self.values[layer, frame] = k[frame - f], v[frame - f]
            read_k, read_v = (
                torch.stack([new[at - f] if at in own else held[layer, at] for at, _ in seen])
                for new, held in ((k, self.keys), (v, self.values))
            )
            out = attention(
                rotate(q, range(stands, stands + n), rows, columns).flatten(0, 1),
                rotate(read_k, [position for _, position in seen], rows, columns).flatten(0, 1),
                read_v.flatten(0, 1),
            )
            x = x + gate * self._linear(out.view_as(x), f"{block}.self_attn.o")
            norm3 = self.weights[f"{block}.norm3.weight"], self.weights[f"{block}.norm3.bias"]
            y = functional.layer_norm(x, x.shape[-1:], *norm3, eps=1e-6).flatten(0, 1)
            cross = f"{block}.cross_attn"
            out = attention(
                self._normed(self._linear(y, f"{cross}.q"), f"{cross}.norm_q"),
                self._normed(self._linear(text, f"{cross}.k"), f"{cross}.norm_k"),
                self._linear(text, f"{cross}.v").unflatten(-1, (self.num_heads, -1)),
            )
            x = x + self._linear(out, f"{cross}.o").view_as(x)
            y = functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_ffn) + shift_ffn
            hidden = functional.gelu(self._linear(y, f"{block}.ffn.0"), approximate="tanh")
            x = x + gate_ffn * self._linear(hidden, f"{block}.ffn.2")
        shift, scale = self.weights["head.modulation"][0] + e
        y = functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        out = self._linear(y, "head.head").view(n, rows, columns, 2, 2, -1)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, height, width)
