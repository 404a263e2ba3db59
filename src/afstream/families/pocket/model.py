"""The embedded pocket model: one safetensors file with backbone, text encoder and codec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import nn

from afstream.bounded import parse_json
from afstream.checkpoints.files import (
    check_fit,
    file_weights,
    load_into,
    read_metadata,
    save_tensors,
)
from afstream.config import BackboneConfig, SamplerConfig
from afstream.errors import CheckpointError
from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.pocket.facts import GEOMETRY, KIND, NAME, POCKET_PATH
from afstream.families.pocket.text import PocketText
from afstream.families.pocket.vae import PocketVae, VaeConfig
from afstream.model.dit import Backbone
from afstream.validation import SettingsFile, validated


def save_pocket(
    path: Path,
    *,
    backbone: Backbone,
    text: PocketText,
    vae: PocketVae,
    recipe: Mapping[str, Any],
) -> None:
    """Write a pocket model, weights in float16; `recipe` says how it was trained."""
    weights = _joined(backbone, text, vae).state_dict()
    config = {
        "backbone": asdict(backbone.config),
        "words": text.words,
        "vae": asdict(vae.config),
        "sampler": asdict(SamplerConfig()),
        "recipe": recipe,
    }
    halves = {name: value.to(torch.float16) for name, value in weights.items()}
    save_tensors(path, halves, {"kind": KIND, "config": json.dumps(config)})


class Words(SettingsFile):
    """The words that a pocket model knows."""

    words: Annotated[tuple[str, ...], Field(min_length=1, max_length=2**12)]


class PocketParts(NamedTuple):
    """What a pocket model file holds, without gradients; the codec in float32."""

    backbone: Backbone
    text: PocketText
    vae: PocketVae
    sampler: SamplerConfig


class PocketSizes(NamedTuple):
    """What the metadata of a pocket model file says."""

    backbone: BackboneConfig
    words: tuple[str, ...]
    vae: VaeConfig
    sampler: SamplerConfig

    @property
    def least_values(self) -> int:
        """A number of weights that the networks have at least: those of their largest matrices."""
        sizes, vae = self.backbone, self.vae
        layers = sizes.num_layers * sizes.dim * (8 * sizes.dim + 2 * sizes.ffn_dim)
        inputs = sizes.dim * (sizes.freq_dim + sizes.text_dim)
        text = sizes.text_dim * (len(self.words) + sizes.text_len + 4 * sizes.text_dim)
        widths = (vae.coarse, vae.middle, vae.fine)
        widths += (vae.encoder_coarse, vae.encoder_middle, vae.encoder_fine)
        codec = vae.coarse_layers * (vae.coarse**2 + vae.encoder_coarse**2)
        return layers + inputs + text + codec + sum(width * width for width in widths)

    def make(self) -> PocketParts:
        """Networks of these sizes."""
        sizes = self.backbone
        text = PocketText(self.words, text_dim=sizes.text_dim, text_len=sizes.text_len)
        return PocketParts(Backbone(sizes), text, PocketVae(self.vae), self.sampler)


def read_sizes(path: Path) -> PocketSizes:
    """Read what networks a file that `save_pocket` wrote is for.

    Raises:
        CheckpointError: no such file, or not a pocket model.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise CheckpointError(f"{path} is no pocket model; its metadata lacks the kind {KIND!r}")
    try:
        config = parse_json(metadata["config"])
        # the embedded file is older than this entry
        given = {"patch": GEOMETRY.patch, **config["backbone"]}
        return PocketSizes(
            validated(BackboneConfig, given, source="backbone"),
            validated(Words, config, source="words").words,
            validated(VaeConfig, config["vae"], source="vae"),
            validated(SamplerConfig, config["sampler"], source="sampler"),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"its settings lack {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{path} is a damaged pocket model: {reason}; give a whole copy of it"
        ) from error


def load_parts(
    path: Path = POCKET_PATH,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PocketParts:
    """Read the networks of a file that `save_pocket` wrote; no weights on the meta device.

    `dtype` is that of backbone and text encoder; the codec always runs in float32.

    Raises:
        CheckpointError: no such file, or not a pocket model.
    """
    sizes, halves = read_sizes(path), file_weights(path)
    # networks far larger than the file are refused before they take memory; made on the meta
    # device to be compared, they would load torch's compiler
    there = sum(value.numel() for value in halves.values())
    if sizes.least_values > there:
        raise CheckpointError(
            f"{path} is a damaged pocket model: its sizes need {sizes.least_values} values or more"
            f" and it holds {there}; give a whole copy of it"
        )
    try:
        parts = sizes.make()
    except (ValueError, AssertionError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is a damaged pocket model: {error}; give a whole copy of it"
        ) from error
    whole = _joined(*parts[:3]).requires_grad_(False).eval()
    if torch.device(device).type == "meta":
        check_fit(whole, halves, what=path.name)
    else:
        weights = {name: value.float() for name, value in halves.items()}
        load_into(whole, weights, what=path.name)
    return parts._replace(
        backbone=parts.backbone.to(device, dtype),
        text=parts.text.to(device, dtype),
        vae=parts.vae.to(device),
    )


def _joined(backbone: Backbone, text: PocketText, vae: PocketVae) -> nn.ModuleDict:
    """The networks as one module, whose weights have the names that they have in a file."""
    return nn.ModuleDict({"backbone": backbone, "text": text, "vae": vae})


def load_pocket(path: Path, family: ModelFamily, where: Placement) -> VideoModel:
    """A pocket model, ready to stream; see `load_parts`.

    Raises:
        CheckpointError: no such file, or not a pocket model.
    """
    parts = load_parts(path, device=where.device, dtype=where.dtype)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    details = {"path": str(path), "sha256": sha256}
    name = NAME if path == POCKET_PATH else path.stem
    return bundle(parts, family, name=name, details=details)


def bundle(
    parts: PocketParts, family: ModelFamily, *, name: str, details: Mapping[str, str]
) -> VideoModel:
    """Networks of the pocket world as one model; `details` go into run records."""
    return VideoModel(
        name=name,
        family=family,
        backbone=parts.backbone,
        text=parts.text,
        vae=parts.vae,
        sampler=parts.sampler,
        details=dict(details),
    )
