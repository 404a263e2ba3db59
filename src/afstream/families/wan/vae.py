"""Wan2.1's video codec as a stream: a part of a scene at a time, behind what it remembers.

The decoder is causal. It turns a scene's first latent frame into one video frame and every
later one into four, and each of its convolutions remembers two frames of its past. Up to three
latent frames go through it at once, so memory does not grow with the video. A scene decoded in
other parts is the same but for rounding, as a convolution over more frames may sum in another
order; in the same parts it is so bit for bit. The encoder is its mirror image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from afstream.checkpoints.configs import VaeFile
from afstream.checkpoints.files import (
    Weights,
    file_weights,
    is_folder,
    read_json,
    read_settings,
)
from afstream.checkpoints.kinds import CHANNELS
from afstream.checkpoints.names import CONFIG, STEM
from afstream.checkpoints.names import VAE_CLASS as KIND
from afstream.checkpoints.shards import folder_weights
from afstream.checkpoints.wrappers import renamed
from afstream.errors import CheckpointError
from afstream.families.wan.autoencoder import Autoencoder
from afstream.families.wan.facts import FORMAT, LATENT_MEAN, LATENT_STD
from afstream.families.wan.loading import ModuleSource
from afstream.families.wan.vae_layers import CodecState, Past
from afstream.families.wan.vae_names import vae_name
from afstream.validation import show_name, validated

# weights that tell a size, in Wan's names and diffusers': name, which size, and its axis
SIZES = (
    ("encoder.conv1.weight", "base_dim", 0),
    ("decoder.head.2.weight", "decoder_base_dim", 1),
    ("conv2.weight", "z_dim", 0),
)
THEIR_SIZES = (
    ("encoder.conv_in.weight", "base_dim", 0),
    ("decoder.conv_out.weight", "decoder_base_dim", 1),
    ("post_quant_conv.weight", "z_dim", 0),
)
CONV3D_DIMS = 5
# latent frames that are decoded at once: a chunk of the public students
GROUP_FRAMES = 3


class WanVae:
    """The codec, ready to stream. Video is [B, N, 3, H, W], latents [B, F, 16, H / 8, W / 8].

    Args:
        autoencoder: the network with its weights; its config may say how latents are normalised.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        for layer in autoencoder.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            if isinstance(layer, nn.Conv3d):
                layer.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        self.autoencoder = autoencoder
        weight = next(autoencoder.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        # bfloat16 would move every latent by up to half a percent
        exact = torch.promote_types(self.dtype, torch.float32)
        config = autoencoder.config
        self._mean, self._std = (
            torch.tensor(values, dtype=exact, device=self.device)
            for values in (config.latents_mean or LATENT_MEAN, config.latents_std or LATENT_STD)
        )

    @torch.no_grad()
    def decode(self, latents: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Latents [B, F, 16, h, w] -> video [B, N, 3, 8 h, 8 w] in [-1, 1], and the new state.

        Without a state N is 1 + 4 (F - 1): a scene begins. With one, N is 4 F: it goes on.

        Raises:
            ValueError: the state is of another codec, or of a video of another size.
        """
        given = rearrange(latents.to(self.device, self._mean.dtype), "b f c h w -> b f h w c")
        raw = (given * self._std + self._mean).to(self.dtype).contiguous()
        pictures: list[Tensor] = []
        for group in raw.split(GROUP_FRAMES, dim=1):
            past = Past(state)
            pictures.append(self.autoencoder.decode(group, past).clamp_(-1, 1))
            state = past.state()
        video = pictures[0] if len(pictures) == 1 else torch.cat(pictures, dim=1)
        return rearrange(video, "b n h w c -> b n c h w"), state or ()

    @torch.no_grad()
    def encode(self, frames: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Video [B, N, 3, 8 h, 8 w] in [-1, 1] -> latents [B, F, 16, h, w], and the new state.

        Latents are the most likely ones, normalised. Without a state N is 1 + 4 (F - 1): a scene
        begins. With one, N is 4 F: it goes on.
        """
        video = rearrange(frames.to(self.device, self.dtype), "b n c h w -> b n h w c").contiguous()
        first = [video[:, :1]] if state is None else []
        later = video[:, len(first) :].split(FORMAT.temporal_stride, dim=1)
        means: list[Tensor] = []
        for group in [*first, *(group for group in later if group.shape[1])]:
            past = Past(state)
            means.append(self.autoencoder.encode(group, past))
            state = past.state()
        raw = torch.cat(means, dim=1).to(self._mean.dtype)
        latents = (raw - self._mean) / self._std
        return rearrange(latents, "b f h w c -> b f c h w"), state or ()


def load_vae(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WanVae:
    """Read Wan2.1's video autoencoder.

    The path is a diffusers `vae/` folder, the file of one, or one with the names of the original
    `Wan2.1_VAE.pth`, as ComfyUI's; or a light VAE (`lightvaew2_1`) with such names, the same with
    every width cut by one rate.

    Raises:
        CheckpointError: there is no such file, or it is no Wan2.1 VAE.
    """
    return WanVae(vae_source(path).build(device=device, dtype=dtype))


def vae_source(path: Path) -> ModuleSource[Autoencoder]:
    """What the codec is made from; raises what `load_vae` raises."""
    config, weights = _from_folder(path) if is_folder(path) else _from_file(path)
    return ModuleSource(what=f"VAE {path}", make=lambda: Autoencoder(config), weights=weights)


def write_config(config: VaeFile, folder: Path) -> None:
    """Write the `config.json` of a `vae/` folder, as diffusers reads it."""
    sizes = config.model_dump(mode="json", exclude_none=True)
    text = json.dumps({"_class_name": KIND, **sizes}, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _from_folder(folder: Path) -> tuple[VaeFile, Weights]:
    path = folder / CONFIG
    kind = read_json(path).get("_class_name", KIND)
    if kind != KIND:
        raise CheckpointError(
            f"{path} describes a {show_name(kind)}; give the vae/ folder of Wan2.1"
        )
    config = read_settings(path, VaeFile)
    _check_channels(config.z_dim, folder)
    return config, folder_weights(folder, STEM)


def _from_file(path: Path) -> tuple[VaeFile, Weights]:
    weights = file_weights(path)
    config: dict[str, Any] = {}
    theirs = THEIR_SIZES[0][0] in weights
    for name, size, axis in THEIR_SIZES if theirs else SIZES:
        if name not in weights:
            raise CheckpointError(
                f"{path} is no Wan2.1 VAE: it has no {name}; give Wan2.1_VAE.pth or a vae/ folder"
            )
        if weights[name].ndim != CONV3D_DIMS:
            raise CheckpointError(
                f"{path} is no Wan2.1 VAE: its {name} is {tuple(weights[name].shape)}, not of"
                f" {CONV3D_DIMS} axes; give Wan2.1_VAE.pth or a vae/ folder"
            )
        config[size] = weights[name].shape[axis]
    _check_channels(config["z_dim"], path)
    remedy = "give Wan2.1_VAE.pth or a vae/ folder"
    sizes = validated(
        VaeFile, config, source=f"{path} is no Wan2.1 VAE", remedy=remedy, error=CheckpointError
    )
    return sizes, weights if theirs else renamed(weights, path, vae_name)


def _check_channels(channels: object, path: Path) -> None:
    if channels != CHANNELS:
        raise CheckpointError(
            f"VAE {path} has {channels} latent channels; give Wan2.1's, which has"
            f" {CHANNELS}, with --vae (Wan2.2's 5B model has another VAE)"
        )
