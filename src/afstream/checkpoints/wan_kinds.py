"""Which of the Wan models something belongs to; one of them is ours."""

from __future__ import annotations

from pathlib import Path

from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.weights import Weights

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
# beginnings of names, original and diffusers'
TELLING = {
    "img_emb.": IMAGE_TO_VIDEO,
    "condition_embedder.image_embedder.": IMAGE_TO_VIDEO,
    "vace_blocks.": VACE,
}
# Wan2.2's second backbone, original and diffusers'
SECOND = ("high_noise_model", "transformer_2")


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
    return IN_CHANNELS.get(channels, f"a model of {channels} latent channels")


def has_two_backbones(folder: Path) -> bool:
    """Whether a folder is laid out as Wan2.2's large models are."""
    return any((folder / name).is_dir() for name in SECOND)
