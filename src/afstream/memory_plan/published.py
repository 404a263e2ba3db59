"""Wan2.1 as it is published, without files: backbone, VAE and text encoder by their sizes."""

from __future__ import annotations

from typing import Any

import torch

from afstream.config import WAN_BACKBONES
from afstream.families.wan.loading import optional
from afstream.families.wan.model import wan_model
from afstream.families.wan.text import WanText
from afstream.families.wan.vae import KIND, WanVae
from afstream.memory_plan.count import META
from afstream.memory_plan.meta_model import MetaModel
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec

# UMT5-xxl's own config.json
UMT5_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "d_kv": 64,
}


def published(size: str, *, name: str = "", dtype: torch.dtype = torch.bfloat16) -> MetaModel:
    """A published model on the meta device.

    Args:
        size: a key of `WAN_BACKBONES`.
        name: what reports call it; the size by default.
        dtype: of all weights.

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
    model = wan_model(
        size,
        backbone,
        WanText(text, lambda prompt: [len(prompt)], text_len=config.text_len),
        WanVae(vae, latent_mean=mean, latent_std=std),
        {},
    )
    return MetaModel(model, ModelSpec(name=size), name=name)
