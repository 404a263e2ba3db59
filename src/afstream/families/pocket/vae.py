"""The pocket model's video codec: small, causal in time, with the strides of Wan's VAE.

A latent frame covers four video frames and 8 x 8 pixels in 16 channels; a scene's first
latent frame covers one video frame. Four frames are folded into channels, so time is
mixed only at the coarsest level, by causal convolutions whose past is an explicit state:
a clip decoded chunk by chunk equals the clip decoded at once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from afstream.checkpoints.files import save_tensors
from afstream.config import Count, Layers
from afstream.families.pocket.facts import FORMAT

RGB = 3
# frames of the past that a causal convolution sees beside the present one
PAST_FRAMES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeConfig:
    """Sizes of the codec.

    Channels at 1/8, 1/4 and 1/2 of the picture's size are called coarse, middle and fine, those of
    the encoder `encoder_...`; each half has `coarse_layers` residual layers with a causal
    convolution.
    """

    latent_channels: Count = 16
    coarse: Count = 96
    middle: Count = 64
    fine: Count = 64
    encoder_coarse: Count = 96
    encoder_middle: Count = 64
    encoder_fine: Count = 48
    coarse_layers: Layers = 2


class CodecState(NamedTuple):
    """What one half of the codec remembers of a scene: the past of each causal convolution.

    Keep it, copy it, come back to it: tensors [B, 2, C, h, w] that no later call changes.
    """

    past: tuple[Tensor, ...]


class PixelNorm(nn.Module):
    """Layer norm over the channels of each pixel: nothing mixes across space or time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same."""
        last = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(last, self.weight.shape, self.weight, self.bias)
        return normed.permute(0, 3, 1, 2)


class Residual(nn.Module):
    """Two 3 x 3 convolutions within each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same."""
        return x + self.conv_out(functional.silu(self.conv_in(functional.silu(self.norm(x)))))


class CausalResidual(nn.Module):
    """A causal convolution over three frames, then a 3 x 3 one within each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.over_time = nn.Conv2d(channels * (PAST_FRAMES + 1), channels, 1)
        self.over_space = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, C, h, w] after the past [B, 2, C, h, w] -> the same, and the new past."""
        batch, frames = x.shape[:2]
        seen = torch.cat([past, functional.silu(_per_frame(self.norm, x))], dim=1)
        steps = [seen[:, i : i + frames] for i in range(PAST_FRAMES + 1)]
        stacked = rearrange(torch.cat(steps, dim=2), "b f c h w -> (b f) c h w")
        mixed = self.over_space(functional.silu(self.over_time(stacked)))
        return x + mixed.unflatten(0, (batch, frames)), seen[:, -PAST_FRAMES:]


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a picture layer to every frame of [B, F, C, h, w]."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class _CausalStack(nn.Module):
    """The layers at the coarsest level, which alone look into the past."""

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CausalResidual(channels) for _ in range(num_layers))

    def forward(self, x: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        """[B, F, C, h, w] -> the same, and the state after it."""
        batch, _, *size = x.shape
        none = x.new_zeros(batch, PAST_FRAMES, *size)
        past = state.past if state else (none,) * len(self.layers)
        after: list[Tensor] = []
        for layer, before in zip(self.layers, past, strict=True):
            x, kept = layer(x, before)
            after.append(kept)
        return x, CodecState(tuple(after))


class Encoder(nn.Module):
    """Groups of four video frames to latent frames, not yet normalised."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.encoder_fine, config.encoder_middle, config.encoder_coarse
        self.picture = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(RGB * FORMAT.temporal_stride * 4, fine, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(fine, middle, 3, stride=2, padding=1),
            Residual(middle),
            nn.Conv2d(middle, coarse, 3, stride=2, padding=1),
        )
        self.causal = _CausalStack(coarse, config.coarse_layers)
        self.head = nn.Sequential(
            PixelNorm(coarse), nn.SiLU(), nn.Conv2d(coarse, config.latent_channels, 1)
        )

    def forward(self, groups: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        """[B, F, 4 * 3, H, W] -> [B, F, C, H / 8, W / 8], and the state after it."""
        x, after = self.causal(_per_frame(self.picture, groups), state)
        return _per_frame(self.head, x), after


class Decoder(nn.Module):
    """Latent frames to groups of four video frames."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(config.latent_channels, config.coarse, 3, padding=1)
        self.causal = _CausalStack(config.coarse, config.coarse_layers)
        self.picture = nn.Sequential(
            PixelNorm(config.coarse),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(config.coarse, config.middle, 3, padding=1),
            Residual(config.middle),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(config.middle, config.fine, 3, padding=1),
            Residual(config.fine),
            PixelNorm(config.fine),
            nn.SiLU(),
            nn.Conv2d(config.fine, RGB * FORMAT.temporal_stride * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, latents: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        """[B, F, C, h, w] -> [B, F, 4 * 3, 8 h, 8 w], and the state after it."""
        x, after = self.causal(_per_frame(self.stem, latents), state)
        return _per_frame(self.picture, x), after


class PocketVae(nn.Module):
    """The codec. Video is [B, N, 3, H, W] in [-1, 1], latents [B, F, 16, H / 8, W / 8].

    Latents are normalised: every channel has mean 0 and variance 1 over the pocket world.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VaeConfig | None = None) -> None:
        super().__init__()
        self.config = config or VaeConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.register_buffer("latent_mean", torch.zeros(self.config.latent_channels))
        self.register_buffer("latent_std", torch.ones(self.config.latent_channels))

    def encode(self, frames: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Video frames [B, N, 3, H, W] -> latents [B, F, 16, h, w], and the state after them.

        Without a state N is 1 + 4 (F - 1): a scene begins. With one, N is 4 F: it goes on.
        """
        raw, after = self.encoder(group_frames(frames, first=state is None), state)
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None], after

    def decode(self, latents: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Latents [B, F, 16, h, w] -> video frames [B, N, 3, H, W], and the state after them.

        Without a state N is 1 + 4 (F - 1): a scene begins. With one, N is 4 F: it goes on.
        """
        # A backbone of another dtype makes latents of that.
        groups, after = self.decoder(latents.to(self.latent_mean.dtype), state)
        frames = rearrange(groups, "b f (t c) h w -> b (f t) c h w", c=RGB)
        return (frames[:, FORMAT.temporal_stride - 1 :] if state is None else frames), after


def save_vae(vae: PocketVae, path: Path) -> None:
    """Write weights and latent statistics as safetensors, the configuration as metadata."""
    save_tensors(path, vae.state_dict(), {"config": json.dumps(asdict(vae.config))})


def load_vae(path: Path) -> PocketVae:
    """Read a codec that `save_vae` wrote, as float32."""
    with safe_open(path, framework="pt") as file:
        vae = PocketVae(VaeConfig(**json.loads(file.metadata()["config"])))
        vae.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    return channels_last(vae).eval()


def channels_last(vae: PocketVae) -> PocketVae:
    """The same codec with its weights laid out for fast convolutions on the CPU."""
    # torch's stubs lack this form of Module.to
    return vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def group_frames(frames: Tensor, *, first: bool) -> Tensor:
    """Fold [B, N, 3, H, W] by fours into channels: [B, F, 4 * 3, H, W].

    A scene's first frame stands alone and is repeated to fill its group.
    """
    count, height, width = frames.shape[1], frames.shape[3], frames.shape[4]
    if first:
        frames = torch.cat(
            [frames[:, :1].expand(-1, FORMAT.temporal_stride - 1, -1, -1, -1), frames], 1
        )
    if frames.shape[1] % FORMAT.temporal_stride:
        wanted = "1 + 4 n at a scene's start" if first else "a multiple of 4 after its start"
        raise ValueError(f"{count} video frames given; the codec takes {wanted}")
    if height % FORMAT.spatial_stride or width % FORMAT.spatial_stride:
        raise ValueError(f"frames are {width} x {height} px; both must be multiples of 8")
    return rearrange(frames, "b (f t) c h w -> b f (t c) h w", t=FORMAT.temporal_stride)
