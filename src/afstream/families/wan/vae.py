"""Wan2.1's video codec as a stream: diffusers' layers, their caches carried from call to call.

The decoder is causal. It turns a scene's first latent frame into one video frame and every
later one into four, and each of its convolutions remembers two frames of its past. Latent
frames go through it one by one, so a scene decoded chunk by chunk is bit for bit the scene
decoded at once, in memory that does not grow. The encoder is its mirror image.
"""

from __future__ import annotations

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
from afstream.errors import CheckpointError
from afstream.families.wan.facts import FORMAT
from afstream.families.wan.loading import ModuleSource, optional
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

# what one half of the codec remembers of a scene: for each convolution, the features it saw last;
# keep it and come back to it, no later call changes it
CodecState = tuple[Any, ...]


class WanVae:
    """The codec, ready to stream. Video is [B, N, 3, H, W], latents [B, F, 16, H / 8, W / 8].

    Args:
        autoencoder: diffusers' `AutoencoderKLWan` with its weights.
        latent_mean: of each latent channel, one number per channel.
        latent_std: likewise.
    """

    def __init__(
        self, autoencoder: nn.Module, *, latent_mean: list[float], latent_std: list[float]
    ) -> None:
        self.autoencoder: Any = autoencoder
        weight = next(autoencoder.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        # bfloat16 would move every latent by up to half a percent
        exact = torch.promote_types(self.dtype, torch.float32)
        self._mean, self._std = (
            torch.tensor(values, dtype=exact, device=self.device)[:, None, None]
            for values in (latent_mean, latent_std)
        )
        self._num_slots = _num_convolutions(self.autoencoder.decoder)

    def decode(self, latents: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Latents [B, F, 16, h, w] -> video [B, N, 3, 8 h, 8 w] in [-1, 1], and the new state.

        Without a state N is 1 + 4 (F - 1): a scene begins. With one, N is 4 F: it goes on.
        """
        raw = latents.to(self.device, self._mean.dtype) * self._std + self._mean
        frames = rearrange(raw.to(self.dtype), "b f c h w -> b c f h w").split(1, dim=2)
        # the decoder replaces entries of this list, never what lies in them
        features = list(state) if state else [None] * self._num_slots
        # one by one from here on: a convolution over more frames may round differently
        codec = self.autoencoder
        pictures = [
            codec.decoder(codec.post_quant_conv(frame), feat_cache=features, feat_idx=[0])
            for frame in frames
        ]
        video = torch.cat(pictures, dim=2).clamp(-1, 1)
        return rearrange(video, "b c n h w -> b n c h w"), tuple(features)

    @torch.no_grad()
    def encode(self, frames: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Video [B, N, 3, 8 h, 8 w] in [-1, 1] -> latents [B, F, 16, h, w], and the new state.

        Latents are the most likely ones, normalised. Without a state N is 1 + 4 (F - 1): a scene
        begins. With one, N is 4 F: it goes on.
        """
        video = rearrange(frames.to(self.device, self.dtype), "b n c h w -> b c n h w")
        first = [] if state else [video[:, :, :1]]
        later = video[:, :, len(first) :].split(FORMAT.temporal_stride, dim=2)
        groups = first + [group for group in later if group.shape[2]]
        codec = self.autoencoder
        features = list(state) if state else [None] * _num_convolutions(codec.encoder)
        coarse = (codec.encoder(group, feat_cache=features, feat_idx=[0]) for group in groups)
        raw = torch.cat([codec.quant_conv(frame)[:, :CHANNELS] for frame in coarse], dim=2)
        latents = rearrange(raw.to(self._mean.dtype), "b c f h w -> b f c h w")
        return (latents - self._mean) / self._std, tuple(features)


def _num_convolutions(part: nn.Module) -> int:
    """An upper bound of the slots that a part asks for; those it does not use stay empty."""
    return sum(isinstance(layer, nn.Conv3d) for layer in part.modules())


def load_vae(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WanVae:
    """Read Wan2.1's video autoencoder.

    The path is a diffusers `vae/` folder, the file of one, or one with the names of the original
    `Wan2.1_VAE.pth`, as ComfyUI's; or a light VAE (`lightvaew2_1`) with such names, the same with
    every width cut by one rate.

    Raises:
        ConfigError: diffusers is not installed.
        CheckpointError: there is no such file, or it is no Wan2.1 VAE.
    """
    autoencoder: Any = vae_source(path).build(device=device, dtype=dtype)
    settings = autoencoder.config
    return WanVae(autoencoder, latent_mean=settings.latents_mean, latent_std=settings.latents_std)


def vae_source(path: Path) -> ModuleSource[Any]:
    """What diffusers' `AutoencoderKLWan` is made from; raises what `load_vae` raises."""
    model: Any = optional("diffusers", KIND)
    config, weights = _from_folder(path) if is_folder(path) else _from_file(path)
    return ModuleSource(what=f"VAE {path}", make=lambda: model.from_config(config), weights=weights)


def _from_folder(folder: Path) -> tuple[dict[str, Any], Weights]:
    path = folder / CONFIG
    kind = read_json(path).get("_class_name", KIND)
    if kind != KIND:
        raise CheckpointError(
            f"{path} describes a {show_name(kind)}; give the vae/ folder of Wan2.1"
        )
    config = read_settings(path, VaeFile)
    _check_channels(config.z_dim, folder)
    return config.model_dump(mode="json", exclude_unset=True, exclude_none=True), folder_weights(
        folder, STEM
    )


def _from_file(path: Path) -> tuple[dict[str, Any], Weights]:
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
    if theirs:
        return sizes.model_dump(exclude_unset=True), weights
    rename: Any = optional("diffusers.loaders.single_file_utils", "convert_wan_vae_to_diffusers")
    # it fails on names that only look like Wan's
    try:
        return sizes.model_dump(exclude_unset=True), rename(weights)
    except Exception as error:
        raise CheckpointError(
            f"{path} is no Wan2.1 VAE: its weights have other names; give Wan2.1_VAE.pth"
        ) from error


def _check_channels(channels: object, path: Path) -> None:
    if channels != CHANNELS:
        raise CheckpointError(
            f"VAE {path} has {channels} latent channels; give Wan2.1's, which has"
            f" {CHANNELS}, with --vae (Wan2.2's 5B model has another VAE)"
        )
