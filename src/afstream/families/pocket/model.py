"""The embedded pocket model: one safetensors file with backbone, text encoder and codec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from afstream.checkpoints.files import file_weights
from afstream.checkpoints.weights import load_into, read_metadata, save_tensors
from afstream.config import BackboneConfig, SamplerConfig, from_mapping
from afstream.errors import CheckpointError
from afstream.families.base import VideoModel
from afstream.families.pocket.family import KIND, NAME, POCKET, POCKET_PATH
from afstream.families.pocket.text import PocketText
from afstream.families.pocket.vae import PocketVae, VaeConfig
from afstream.model.dit import Backbone

PARTS = ("backbone", "text", "vae")


def save_pocket(
    path: Path,
    *,
    backbone: Backbone,
    text: PocketText,
    vae: PocketVae,
    recipe: Mapping[str, Any],
) -> None:
    """Write a pocket model, weights in float16; `recipe` says how it was trained."""
    tensors = {
        f"{part}.{name}": value.to(torch.float16)
        for part, module in zip(PARTS, (backbone, text, vae), strict=True)
        for name, value in module.state_dict().items()
    }
    config = {
        "backbone": asdict(backbone.config),
        "words": text.words,
        "vae": asdict(vae.config),
        "sampler": asdict(SamplerConfig()),
        "recipe": recipe,
    }
    save_tensors(path, tensors, {"kind": KIND, "config": json.dumps(config)})


class PocketParts(NamedTuple):
    """What a pocket model file holds, without gradients; the codec in float32."""

    backbone: Backbone
    text: PocketText
    vae: PocketVae
    sampler: SamplerConfig


def load_parts(
    path: Path = POCKET_PATH,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PocketParts:
    """Read a pocket model's networks; the codec always runs in float32.

    On the meta device only its settings are read.

    Args:
        path: a file that `save_pocket` wrote; the embedded one by default.
        device: where it will run.
        dtype: of backbone and text encoder.

    Raises:
        CheckpointError: no such file, or not a pocket model.
    """
    on_meta = torch.device(device).type == "meta"
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise CheckpointError(f"{path} is no pocket model; its metadata lacks the kind {KIND!r}")
    try:
        config = json.loads(metadata["config"])
        # the embedded file is older than this entry
        sizes = from_mapping(BackboneConfig, {"patch": POCKET.geometry.patch, **config["backbone"]})
        vae = PocketVae(from_mapping(VaeConfig, config["vae"]))
        sampler = from_mapping(SamplerConfig, config["sampler"])
        text = PocketText(config["words"], text_dim=sizes.text_dim, text_len=sizes.text_len)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a damaged pocket model: {error}; give a whole copy of it"
        ) from error
    backbone = Backbone(sizes)
    tensors = {} if on_meta else file_weights(path)
    for part, module in zip(PARTS, (backbone, text, vae), strict=True):
        prefix = f"{part}."
        weights = {
            name.removeprefix(prefix): value.float()
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        if not on_meta:
            load_into(module, weights, what=f"{path.name}, part {part!r},")
        module.requires_grad_(False).eval()
    return PocketParts(backbone.to(device, dtype), text.to(device, dtype), vae.to(device), sampler)


def load_pocket(
    path: Path = POCKET_PATH,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoModel:
    """A pocket model, ready to stream; see `load_parts`.

    Raises:
        CheckpointError: no such file, or not a pocket model.
    """
    details = {"path": str(path)}
    parts = load_parts(path, device=device, dtype=dtype)
    if torch.device(device).type != "meta":
        details["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    name = NAME if path == POCKET_PATH else path.stem
    return bundle(parts, name=name, details=details)


def bundle(parts: PocketParts, *, name: str, details: Mapping[str, str]) -> VideoModel:
    """Networks of the pocket world as one model; `details` go into run records."""
    return VideoModel(
        name=name,
        family=POCKET,
        backbone=parts.backbone,
        text=parts.text,
        vae=parts.vae,
        sampler=parts.sampler,
        details=dict(details),
    )
