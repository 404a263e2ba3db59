"""Wan2.1's video codec: encoder and decoder over frames, channels last, a part of a scene at once.

Sizes and names of weights are those of diffusers' `AutoencoderKLWan`. The decoder makes four video
frames of a latent frame, the encoder one latent frame of four video frames; a scene's first latent
frame is one video frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from afstream.checkpoints.configs import VaeFile
from afstream.families.wan.vae_layers import (
    CausalConv,
    Middle,
    Norm,
    Past,
    PlaneConv,
    Residual,
    Sum,
    channels_last,
    last_of,
)

COLOURS = 3
# the layout counts the weightless layer before a resampling convolution
RESAMPLING = "1"
TIME_SIZE = (3, 1, 1)


class EnlargingConv(nn.Conv2d):
    """A 3x3 convolution of frames whose pixels were repeated twice in width and height.

    Nothing is repeated: a transposed convolution with 4x4 weights, each the sum of those that meet
    one pixel, gives the same for 4/9 of the products and without the large frames. Its bias is
    left to others.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, frames: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, T, H, W, C] -> [B, T, 2 H, 2 W, O], without the bias."""
        x = rearrange(frames, "b t h w c -> (b t) c h w")
        out = functional.conv_transpose2d(x, self._summed(), stride=2, padding=1)
        return channels_last(out, frames).unflatten(0, frames.shape[:2])

    def _summed(self) -> Tensor:
        """The weights [C, O, 4, 4] of the transposed convolution."""
        exact = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        windows = functional.avg_pool2d(exact, 2, stride=1, padding=1, divisor_override=1)
        summed = rearrange(windows.flip(-2, -1), "o c h w -> c o h w").to(self.weight.dtype)
        return summed.contiguous(memory_format=torch.channels_last)


class Upsample(nn.Module):
    """Frames twice as wide and high, of half the channels; in time, also twice as many."""

    def __init__(self, channels: int, *, in_time: bool) -> None:
        super().__init__()
        conv = EnlargingConv(channels, channels // 2)
        self.resample = nn.ModuleDict({RESAMPLING: conv})
        self.time_conv = CausalConv(channels, 2 * channels, TIME_SIZE) if in_time else None

    def forward(self, x: Sum, past: Past) -> Sum:
        """[B, T, H, W, C] -> [B, T or 2 T, 2 H, 2 W, C / 2]; a scene's first frame stays one."""
        frames = x.total()
        if self.time_conv is not None:
            frames = self._doubled(self.time_conv, frames, past)
        conv: Any = self.resample[RESAMPLING]
        return Sum(conv(frames), conv.bias)

    def _doubled(self, conv: CausalConv, x: Tensor, past: Past) -> Tensor:
        # the scene's first frame is not remembered either
        start = 1 if past.begins else 0
        others = x[:, start:]
        if not others.shape[1]:
            past.keep(past.take(x))
            return x
        made = conv.remembering(others, past)
        grown = x.new_empty(x.shape[0], start + 2 * others.shape[1], *x.shape[2:])
        grown[:, :start] = x[:, :start]
        # the bias is added on the way to where the frames stand
        places = rearrange(grown[:, start:], "b (t two) h w c -> b t two h w c", two=2)
        pairs = rearrange(made.x, "b t h w (two c) -> b t two h w c", two=2)
        torch.add(pairs, rearrange(conv.bias, "(two c) -> two 1 1 c", two=2), out=places)
        return grown


class UpBlock(nn.Module):
    """Residual blocks and growth behind them, to be run one after the other.

    It runs none itself: as long as it did, its input would stay in memory.
    """

    def __init__(self, inputs: int, outputs: int, num_blocks: int, growth: Upsample | None) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * num_blocks]
        self.resnets = nn.ModuleList([Residual(*pair) for pair in pairwise(widths)])
        self.upsamplers = nn.ModuleList([growth] if growth else [])

    def __iter__(self) -> Iterator[nn.Module]:
        """Its layers, each [B, T, H, W, C] and `Past` -> `Sum`."""
        yield from self.resnets
        yield from self.upsamplers


class WanDecoder(nn.Module):
    """Latent frames to video frames, any number at once."""

    def __init__(self, config: VaeFile) -> None:
        super().__init__()
        base = config.decoder_base_dim or config.base_dim
        widths = [base * times for times in reversed(config.dim_mult)]
        in_time = (*reversed(config.temperal_downsample), None)
        self.conv_in = CausalConv(config.z_dim, widths[0])
        self.mid_block = Middle(widths[0])
        # growth has halved the channels
        inputs = [widths[0], *(width // 2 for width in widths[:-1])]
        self.up_blocks = nn.ModuleList(
            UpBlock(
                before,
                width,
                config.num_res_blocks + 1,
                None if times is None else Upsample(width, in_time=times),
            )
            for before, width, times in zip(inputs, widths, in_time, strict=True)
        )
        self.norm_out = Norm(widths[-1])
        self.conv_out = CausalConv(widths[-1], COLOURS)

    def forward(self, latents: Tensor, past: Past) -> Tensor:
        """Latents [B, F, h, w, 16] -> video [B, N, 8 h, 8 w, 3], about -1 to 1."""
        x = self.mid_block(self.conv_in.remembering(latents, past), past)
        blocks: Any = self.up_blocks
        for layer in chain.from_iterable(blocks):
            x = layer(x, past)
        return Sum(
            self.conv_out(x.norm_silu(self.norm_out, past, last_use=True)), self.conv_out.bias
        ).total()


class Downsample(nn.Module):
    """Frames half as wide and high; in time, also half as many."""

    def __init__(self, channels: int, *, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({RESAMPLING: PlaneConv(channels, channels, 3, stride=2)})
        self.time_conv = (
            CausalConv(channels, channels, TIME_SIZE, time_stride=2) if in_time else None
        )

    def forward(self, x: Sum, past: Past) -> Sum:
        """[B, T, H, W, C] -> [B, T or T / 2, H / 2, W / 2, C]; a scene's first frame stays one."""
        conv: Any = self.resample[RESAMPLING]
        # one row and one column of zeros behind the last ones
        made = Sum(conv(functional.pad(x.total(), (0, 0, 0, 1, 0, 1))), conv.bias)
        if self.time_conv is None:
            return made
        frames = made.total()
        if not past.begins:
            before = past.take(frames, 1)
            made = Sum(self.time_conv(torch.cat([before, frames], dim=1)), self.time_conv.bias)
        past.keep(last_of(frames, 1))
        return made


class WanEncoder(nn.Module):
    """Video frames to latent frames: a scene's first frame, or four later ones, at once."""

    def __init__(self, config: VaeFile) -> None:
        super().__init__()
        widths = [config.base_dim * times for times in config.dim_mult]
        self.conv_in = CausalConv(COLOURS, config.base_dim)
        layers: list[nn.Module] = []
        inputs = config.base_dim
        for width, in_time in zip(widths, (*config.temperal_downsample, None), strict=True):
            blocks = pairwise([inputs, *[width] * config.num_res_blocks])
            layers += [Residual(*pair) for pair in blocks]
            if in_time is not None:
                layers.append(Downsample(width, in_time=in_time))
            inputs = width
        self.down_blocks = nn.ModuleList(layers)
        self.mid_block = Middle(inputs)
        self.norm_out = Norm(inputs)
        # a mean and a variance of each channel
        self.conv_out = CausalConv(inputs, 2 * config.z_dim)

    def forward(self, video: Tensor, past: Past) -> Tensor:
        """Video [B, N, 8 h, 8 w, 3] -> means and variances [B, F, h, w, 32]."""
        x = self.conv_in.remembering(video, past)
        for layer in self.down_blocks:
            x = layer(x, past)
        x = self.mid_block(x, past)
        return Sum(
            self.conv_out(x.norm_silu(self.norm_out, past, last_use=True)), self.conv_out.bias
        ).total()


class Autoencoder(nn.Module):
    """Both halves, and what is between them."""

    def __init__(self, config: VaeFile) -> None:
        super().__init__()
        self.config = config
        self.encoder = WanEncoder(config)
        self.quant_conv = CausalConv(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1))
        self.post_quant_conv = CausalConv(config.z_dim, config.z_dim, (1, 1, 1))
        self.decoder = WanDecoder(config)

    def decode(self, latents: Tensor, past: Past) -> Tensor:
        """See `WanDecoder`."""
        raw = Sum(self.post_quant_conv(latents), self.post_quant_conv.bias).total()
        return self.decoder(raw, past)

    def encode(self, video: Tensor, past: Past) -> Tensor:
        """See `WanEncoder`; only the means, [B, F, h, w, 16]."""
        both = Sum(self.quant_conv(self.encoder(video, past)), self.quant_conv.bias).total()
        return both[..., : self.config.z_dim]
