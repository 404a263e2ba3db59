"""The tiny decoder of Wan2.1 latents as a stream: TAEHV's `taew2_1`, LightX2V's `lighttaew2_1`.

A plain convolutional network, frame by frame in space; the only way through time is that each
memory block also sees the frame before. It turns every latent frame into four video frames and
does not show the first three of a scene, so that a scene begins with one, as it does in Wan's
own decoder. The layout is the public one (madebyollin/taehv); sizes are read from the weights.

Both kinds have the same names and shapes but read latents differently: TAEHV's the normalised
ones that the backbone makes, LightX2V's the raw ones of Wan's encoder. Only the file's name
tells which.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from afstream.checkpoints.files import Weights, file_weights
from afstream.checkpoints.kinds import CHANNELS
from afstream.checkpoints.parts import TINY_FILES
from afstream.errors import CheckpointError
from afstream.families.wan.loading import ModuleSource

COLOURS = 3

# the layout numbers the layers of `decoder`; weightless ones count, too
ENTRY, EXIT = 1, 22
# three memory blocks from here on, one weightless layer, growth in time, a convolution
STAGES = (3, 9, 15)
BLOCKS, GROW, NARROW = 3, 4, 5
# frames that each stage makes of one
TIMES = (1, 2, 2)
# channels of `taew2_1`: of each stage, and those before the last convolution
PUBLIC_WIDTHS = (256, 128, 64, 64)
CONV2D_DIMS = 4
# of a scene's first latent frame, not shown: they lie before the video's first frame
HIDDEN_FRAMES = 3

# of each channel of Wan2.1's latents: raw = normalised * std + mean (Wan2.1, wan/modules/vae.py)
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

# a file's name holds the first, and the second as well if it reads raw latents
FAMILY = "taew2_1"
READS_RAW = "lighttaew2_1"

# what the decoder remembers of a scene: the last frame [B, C, h, w] each block saw; keep it and
# come back to it, no later call changes it
TinyState = tuple[Tensor, ...]


class MemoryBlock(nn.Module):
    """Adds to each frame what three convolutions make of it and of the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
        )

    def forward(self, frames: Tensor, last: Tensor) -> Tensor:
        """Frames [(T B), C, h, w] after the frame `last` [B, C, h, w] -> frames, as many."""
        before = torch.cat([last, frames[: -last.shape[0]]])
        return functional.relu(self.conv(torch.cat([frames, before], 1)).add_(frames), inplace=True)


class Grow(nn.Module):
    """Each frame becomes `times`, each of them twice as wide and high."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, times * width, 1, bias=False)

    def forward(self, frames: Tensor, batch: int) -> Tensor:
        """[(T B), C, h, w] -> [(T times B), C, 2 h, 2 w]."""
        # channels last in memory, and moved only once
        pattern = "(t b) (times c) h w -> (t times b) h w c"
        grown = rearrange(self.conv(frames), pattern, b=batch, times=self.times)
        # the layout doubles first; repeated pixels give the same here, for four times the work
        return functional.interpolate(grown.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")


class TinyDecoder(nn.Module):
    """The network, its weights named as the public layout names them.

    Its widths are the channels of each stage, and those before the last convolution.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: dict[int, nn.Module] = {ENTRY: _conv(CHANNELS, widths[0])}
        for first, times, (width, narrow) in zip(STAGES, TIMES, pairwise(widths), strict=True):
            layers |= {first + index: MemoryBlock(width) for index in range(BLOCKS)}
            layers[first + GROW] = Grow(width, times)
            layers[first + NARROW] = _conv(width, narrow, bias=False)
        layers[EXIT] = _conv(widths[-1], COLOURS)
        self.decoder = nn.ModuleDict({str(index): layer for index, layer in layers.items()})

    def forward(self, latent: Tensor, memory: TinyState) -> tuple[Tensor, TinyState]:
        """One latent frame [B, 16, h, w] -> [(4 B), 3, 8 h, 8 w] about 0 to 1, and the memory.

        The latent is bounded; the memory is empty where a scene begins.
        """
        batch = latent.shape[0]
        frames = functional.relu(self._layer(ENTRY)(latent), inplace=True)
        past, seen = iter(memory), list[Tensor]()
        for first in STAGES:
            for index in range(first, first + BLOCKS):
                last = next(past) if memory else torch.zeros_like(frames[:batch])
                # a copy, because a view would keep all frames of the layer alive
                seen.append(frames[-batch:].clone())
                frames = self._layer(index)(frames, last)
            frames = self._layer(first + NARROW)(self._layer(first + GROW)(frames, batch))
        return self._layer(EXIT)(functional.relu(frames, inplace=True)), tuple(seen)

    def _layer(self, index: int) -> nn.Module:
        return self.decoder[str(index)]


class TinyVae:
    """The decoder, ready to stream. Video is [B, N, 3, H, W], latents [B, F, 16, H / 8, W / 8].

    Args:
        decoder: the network with its weights.
        reads_raw: whether it was trained on raw latents rather than on normalised ones.
    """

    def __init__(self, decoder: TinyDecoder, *, reads_raw: bool) -> None:
        # faster on CPUs, in bfloat16 most of all, and what tensor cores read; torch's stubs lack it
        decoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.decoder = decoder
        self.reads_raw = reads_raw
        weight = next(decoder.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        # bfloat16 would move every latent by up to half a percent
        self._exact = torch.promote_types(self.dtype, torch.float32)
        self._mean, self._std = (
            torch.tensor(values, dtype=self._exact, device=self.device)[:, None, None]
            for values in (LATENT_MEAN, LATENT_STD)
        )

    def decode(self, latents: Tensor, state: TinyState | None = None) -> tuple[Tensor, TinyState]:
        """Latents [B, F, 16, h, w] -> video [B, N, 3, 8 h, 8 w] in [-1, 1], and the new state.

        Without a state N is 1 + 4 (F - 1): a scene begins. With one, N is 4 F: it goes on.
        """
        memory = state or ()
        pictures: list[Tensor] = []
        # one by one: a convolution over more frames may round differently
        for latent in latents.unbind(1):
            frames, memory = self.decoder(self._bounded(latent), memory)
            pictures.append(rearrange(frames, "(n b) c h w -> b n c h w", b=latent.shape[0]))
        video = torch.cat(pictures, dim=1)
        if state is None:
            video = video[:, HIDDEN_FRAMES:]
        return video.clamp(0, 1) * 2 - 1, memory

    def _bounded(self, latent: Tensor) -> Tensor:
        """A latent frame [B, 16, h, w] as the network reads it: within -3 and 3, smoothly."""
        latent = latent.to(self.device, self._exact).contiguous()
        if self.reads_raw:
            latent = latent * self._std + self._mean
        bounded = torch.tanh(latent / 3) * 3
        return bounded.to(self.dtype, memory_format=torch.channels_last)


def load_tiny(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TinyVae:
    """Read a tiny decoder of Wan2.1 latents, alone or with its encoder, which is not read.

    The path is of `taew2_1` or `lighttaew2_1`, `.pth` or `.safetensors`; the name tells which.

    Raises:
        CheckpointError: there is no such file, it is no tiny VAE of Wan2.1, or its name does not
            tell how it reads latents.
    """
    weights = file_weights(path)
    wanted = {name: value for name, value in weights.items() if not name.startswith("encoder.")}
    widths, reads_raw = _widths(wanted, path), _reads_raw(path)
    source = ModuleSource(what=f"tiny VAE {path}", make=lambda: TinyDecoder(widths), weights=wanted)
    return TinyVae(source.build(device=device, dtype=dtype), reads_raw=reads_raw)


def meta_tiny(dtype: torch.dtype) -> TinyVae:
    """The public tiny VAE on the meta device, for counting bytes."""
    with torch.device("meta"):
        decoder = TinyDecoder(PUBLIC_WIDTHS).to(dtype)
    return TinyVae(decoder.requires_grad_(False).eval(), reads_raw=False)


def looks_tiny(weights: Weights) -> bool:
    """Whether weights have the tiny layout's names, in which `decoder` has numbered layers."""
    return any(name.startswith("decoder.") and name.split(".")[1].isdigit() for name in weights)


def _widths(weights: Weights, path: Path) -> list[int]:
    """Channels of each stage, and those before the last convolution, as the weights tell them."""
    widths: list[int] = []
    for index in (ENTRY, *(first + NARROW for first in STAGES)):
        name = f"decoder.{index}.weight"
        if name not in weights:
            raise CheckpointError(f"{path} is no tiny VAE: it has no {name}; give {TINY_FILES}")
        shape = weights[name].shape
        if len(shape) != CONV2D_DIMS:
            raise CheckpointError(
                f"{path} is no tiny VAE: its {name} is {tuple(shape)}, not of 4 axes;"
                f" give {TINY_FILES}"
            )
        widths.append(shape[0])
    channels = weights[f"decoder.{ENTRY}.weight"].shape[1]
    if channels != CHANNELS:
        raise CheckpointError(
            f"tiny VAE {path} reads {channels} latent channels, but Wan2.1 has {CHANNELS};"
            f" give {TINY_FILES}"
        )
    return widths


def _reads_raw(path: Path) -> bool:
    name = path.name.lower()
    if FAMILY not in name:
        raise CheckpointError(
            f"the name of tiny VAE {path} does not tell how it reads latents; name it {FAMILY} if"
            f" it is TAEHV's, {READS_RAW} if it is LightX2V's (others are for other models)"
        )
    return READS_RAW in name


def _conv(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
