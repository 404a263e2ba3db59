"""Wan2.1 as it is published, on the meta device: sizes of parts whose files are not there."""

from __future__ import annotations

from typing import Any

import torch

from afstream.checkpoints.configs import VaeFile
from afstream.config import WAN_BACKBONES
from afstream.families.base import VideoModel
from afstream.families.wan.autoencoder import Autoencoder
from afstream.families.wan.family import WAN
from afstream.families.wan.loading import optional
from afstream.families.wan.model import wan_model
from afstream.families.wan.text import WanText
from afstream.families.wan.vae import WanVae
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
        ConfigError: transformers is not installed.
    """
    config = WAN_BACKBONES[size]
    settings: Any = optional("transformers", "UMT5Config")
    encoder: Any = optional("transformers", "UMT5EncoderModel")
    with torch.device(META):
        backbone = Backbone(config).to(dtype)
        text: Any = encoder(settings.from_dict(UMT5_XXL)).to(dtype)
        # its defaults are Wan2.1's
        vae = Autoencoder(VaeFile()).to(dtype)
    for module in (backbone, text, vae):
        module.requires_grad_(False).eval()
    encode = WanText(text, lambda prompt: [len(prompt)], text_len=config.text_len)
    return wan_model(size, WAN, backbone, encode, WanVae(vae), {})
