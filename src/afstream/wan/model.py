"""Wan2.1 text-to-video models: a folder as it is downloaded, a student, LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from afstream.config import SamplerConfig
from afstream.errors import CheckpointError
from afstream.geometry import Geometry
from afstream.model.bundle import TextEncoder, VideoDecoder, VideoModel
from afstream.model.checkpoints import (
    BackboneSource,
    WanFolder,
    find_parts,
    read_config,
    read_loras,
    read_student,
    sizes_of,
)
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from afstream.wan.decoders import find_tiny, open_decoder
from afstream.wan.text import EncodedPrompts, load_text

# `--vae tiny`
TINY = "tiny"

# what the public models were trained at
GEOMETRY = Geometry(width_px=832, height_px=480)

# a student's own file tells its sizes; these it shares with what it was made from
SHARED = ("head_dim", "text_len", "eps")


def open_wan(
    folder: Path,
    spec: ModelSpec,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prompts: Sequence[str] = (),
) -> VideoModel:
    """Load a model folder, original or diffusers' layout.

    Args:
        folder: backbone, VAE and text encoder; what the spec replaces may be absent.
        spec: what takes a part's place, what is added, and where the parts go.
        device: where it will run.
        dtype: of all weights.
        prompts: encoded at once; a text encoder that is dropped afterwards knows no others.

    Raises:
        CheckpointError: pieces are missing or do not fit; says which.
        ConfigError: more layers are to be offloaded than there are.
        PromptError: a prompt is too long.
    """
    parts = find_parts(folder, with_backbone=spec.student is None, with_vae=spec.vae is None)
    details = {"path": str(folder), "layout": parts.layout}
    source = backbone_source(parts, spec, details)
    # what is cheap to find out first: the other parts take long to read
    source.check()
    # before the others, so that they find its room free when it is dropped
    text = _text(parts, spec, source, prompts, device, dtype)
    vae = open_decoder(_vae_path(parts, spec), device=device, dtype=dtype)
    if spec.vae is not None:
        details["vae"] = spec.vae
    backbone = source.build(device=device, dtype=dtype, offload=spec.offload)
    return wan_model(folder.resolve().name, backbone, text, vae, details)


def wan_model(
    name: str, backbone: Backbone, text: TextEncoder, vae: VideoDecoder, details: dict[str, str]
) -> VideoModel:
    """A model of Wan's kind, with the sampler that the public students were distilled for."""
    return VideoModel(
        name=name,
        backbone=backbone,
        text=text,
        vae=vae,
        sampler=SamplerConfig(),
        geometry=GEOMETRY,
        any_size=True,
        details=details,
    )


def _vae_path(parts: WanFolder, spec: ModelSpec) -> Path:
    """The decoder that is wanted; see `ModelSpec.vae`."""
    if spec.vae is None:
        return parts.vae
    return find_tiny(parts.path) if spec.vae == TINY else Path(spec.vae)


def _text(
    parts: WanFolder,
    spec: ModelSpec,
    source: BackboneSource,
    prompts: Sequence[str],
    device: torch.device | str,
    dtype: torch.dtype,
) -> TextEncoder:
    """The text encoder where it is wanted, prompts encoded."""
    text = load_text(
        parts.text,
        parts.tokenizer,
        device="cpu" if spec.text == "cpu" else device,
        dtype=dtype,
        text_len=source.config.text_len,
    )
    width = text.encoder.get_parameter("shared.weight").shape[1]
    if width != source.config.text_dim:
        raise CheckpointError(
            f"{source.what} reads text embeddings of {source.config.text_dim} values, but the text"
            f" encoder {parts.text} writes {width}; give parts of one model"
        )
    known = EncodedPrompts.of(text, prompts)
    return known if spec.text == "drop" else text


def backbone_source(parts: WanFolder, spec: ModelSpec, details: dict[str, str]) -> BackboneSource:
    """What the backbone is made from; also said in `details`.

    Raises:
        CheckpointError: a file is missing, no checkpoint, or of another kind of model.
    """
    declared = read_config(parts.config)
    if spec.student is None:
        what, weights = f"the backbone in {parts.backbone}", parts.weights()
        details["backbone"] = "the folder's own; a plain Wan2.1 makes no good video in few steps"
    else:
        found = read_student(Path(spec.student))
        what, weights = f"student {spec.student}", found.weights
        declared = {name: declared[name] for name in SHARED if name in declared}
        details["student"] = found.describe()
    config = sizes_of(weights, what=what, declared=declared)
    loras = read_loras(spec.loras)
    if loras:
        details["loras"] = ", ".join(lora.describe() for lora in loras)
    return BackboneSource(what=what, config=config, weights=weights, loras=loras)
