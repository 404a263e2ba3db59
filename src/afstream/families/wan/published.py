"""Wan2.1 as it is published, on the meta device: sizes of parts whose files are not there."""

from __future__ import annotations

from typing import Any

import torch

from afstream.config import WAN_BACKBONES
from afstream.families.base import VideoModel
from afstream.families.wan.family import WAN
from afstream.families.wan.loading import optional
from afstream.families.wan.model import wan_model
from afstream.families.wan.text import WanText
from afstream.families.wan.vae import KIND, WanVae
from afstream.model.dit import Backbone

META = "meta"
# UMT5-xxl's own config.json
UMT5_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "d_kv": 64,
}


def published_wan(size: str, *, dtype: torch.dtype) -> VideoModel:
    """A published model, by its key in `WAN_BACKBONES`, with its own text encoder and VAE.

    Raises:
        ConfigError: transformers or diffusers is not installed.
    """
    config = WAN_BACKBONES[size]
    settings: Any = optional("transformers", "UMT5Config")
    encoder: Any = optional("transformers", "UMT5EncoderModel")
    # its defaults are Wan2.1's
    autoencoder: Any = optional("diffusers", KIND)
    with torch.device(META):
        backbone = Backbone(config).to(dtype)
        text: Any = encoder(settings.from_dict(UMT5_XXL)).to(dtype)
        vae: Any = autoencoder()
    for module in (backbone, text, vae):
        module.requires_grad_(False).eval()
    # not by its own `to`, which warns of parts that Wan's does not have
    torch.nn.Module.to(vae, dtype)
    mean, std = vae.config.latents_mean, vae.config.latents_std
    encode = WanText(text, lambda prompt: [len(prompt)], text_len=config.text_len)
    decode = WanVae(vae, latent_mean=mean, latent_std=std)
    return wan_model(size, WAN, backbone, encode, decode, {})
