"""Kinds of model files and families of Wan models, told from names, shapes and settings."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Literal

from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.files import Weights

Kind = Literal[
    "Wan folder",
    "converted folder",
    "pocket model",
    "random weights",
    "student",
    "backbone weights",
    "LoRA",
    "Wan VAE",
    "tiny VAE",
    "text encoder",
    "tokenizer folder",
    "unknown",
]

Piece = Literal["backbone", "text encoder", "tokenizer", "VAE"]
PIECES: tuple[Piece, ...] = ("backbone", "text encoder", "tokenizer", "VAE")

# the family that afstream runs, and others of Wan's
FAMILY = "Wan2.1 text-to-video"
IMAGE_TO_VIDEO = "Wan image-to-video"
TWO_BACKBONES = "Wan2.2 (two backbones)"
WAN22_5B = "Wan2.2 5B"
VACE = "Wan video editing (VACE)"
# `model_type` in the original config.json
TYPES = {
    "t2v": FAMILY,
    "i2v": IMAGE_TO_VIDEO,
    "flf2v": "Wan first-and-last-frame-to-video",
    "ti2v": WAN22_5B,
    "vace": VACE,
    "s2v": "Wan2.2 speech-to-video",
    "animate": "Wan2.2 animation",
}
# channels of our latents, and those of the input of backbones that are known by them
CHANNELS = 16
IN_CHANNELS = {CHANNELS: FAMILY, 32: "Wan video editing", 36: IMAGE_TO_VIDEO, 48: WAN22_5B}
# likewise, of backbones that give our latents all the same
CONDITIONED = {48: "Wan Fun-Control"}
OTHER = "a model of {} latent channels"
# beginnings of names, original and diffusers'
TELLING = {
    "img_emb.": IMAGE_TO_VIDEO,
    "condition_embedder.image_embedder.": IMAGE_TO_VIDEO,
    "vace_blocks.": VACE,
}
# Wan2.2's second backbone, original and diffusers'
SECOND = ("high_noise_model", "transformer_2")

# of a backbone, under Wan's names
BACKBONE_NAMES = ("patch_embedding.weight", "blocks.0.ffn.0.weight")
# kind and layout; names, of each of which a weight must be there; a weight and its axis that counts
# latent channels, if one does
PARTS: tuple[tuple[Kind, str, tuple[str, ...], tuple[str, int] | None], ...] = (
    ("Wan VAE", "original", ("encoder.conv1.weight", "decoder.conv1.weight"), ("conv2.weight", 0)),
    (
        "Wan VAE",
        "diffusers",
        ("encoder.conv_in.weight", "decoder.conv_in.weight"),
        ("post_quant_conv.weight", 0),
    ),
    ("text encoder", "original", ("token_embedding.weight", "blocks.0.attn.q.weight"), None),
    (
        "text encoder",
        "transformers",
        # T5, which is named alike, has this bias in its first layer only
        (
            "encoder.block.0.layer.0.SelfAttention.q.weight",
            "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        None,
    ),
    # TAEHV: a numbered sequence with blocks of three convolutions in it
    ("tiny VAE", "", ("decoder.1.weight", "decoder.[0-9]*.conv.0.weight"), ("decoder.1.weight", 1)),
)


def declared_family(config: BackboneFile) -> str:
    """The family that a backbone's `config.json` declares; ours where it says nothing."""
    name, kind = config.class_name, config.model_type
    if "Wan" not in name:
        return name
    # diffusers has one class for all, and tells them apart by what they take
    channels = config.in_dim or config.in_channels or CHANNELS
    if kind == "t2v" and channels in IN_CHANNELS:
        return VACE if "VACE" in name else IN_CHANNELS[channels]
    return TYPES.get(kind, f"{name} of type {kind!r}")


def family_of(weights: Weights) -> str:
    """The family that a backbone's weights belong to, under Wan's names."""
    for part, family in TELLING.items():
        if any(name.startswith(part) for name in weights):
            return family
    channels = weights["patch_embedding.weight"].shape[1]
    head = weights.get("head.head.weight")
    # a token is four latent pixels
    if head is not None and head.shape[:1] == (4 * CHANNELS,) and channels in CONDITIONED:
        return CONDITIONED[channels]
    return IN_CHANNELS.get(channels, OTHER.format(channels))


def has_two_backbones(folder: Path) -> bool:
    """Whether a folder is laid out as Wan2.2's large models are."""
    return any((folder / name).is_dir() for name in SECOND)


def is_backbone(weights: Weights) -> bool:
    """Whether weights under Wan's names are a backbone's."""
    return all(name in weights for name in BACKBONE_NAMES)


def part_of(weights: Weights) -> tuple[Kind, str, str] | None:
    """Kind, layout and family of a VAE's or a text encoder's weights; None for any others."""
    for kind, layout, names, channels in PARTS:
        if all(fnmatch.filter(weights, name) for name in names):
            return kind, layout, _latent_family(weights, *channels) if channels else FAMILY
    return None


def _latent_family(weights: Weights, name: str, axis: int) -> str:
    shape = weights[name].shape if name in weights else ()
    count = shape[axis] if axis < len(shape) else "unknown"
    return FAMILY if count == CHANNELS else f"of a model with {count} latent channels"
