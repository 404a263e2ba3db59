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
from afstream.wan.text import load_text
from afstream.wan.vae import load_vae

# what the public models were trained at
GEOMETRY = Geometry(width_px=832, height_px=480)

# a student's own file tells its sizes; these it shares with what it was made from
SHARED = ("head_dim", "text_len", "eps")


def open_wan(
    folder: Path,
    *,
    student: Path | None = None,
    loras: Sequence[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoModel:
    """Load a model folder, original or diffusers' layout.

    Args:
        folder: backbone, VAE and text encoder; with a student, the backbone may be absent.
        student: a file whose backbone takes the place of the folder's.
        loras: files, each with its scale behind a colon if it is not 1.
        device: where it will run.
        dtype: of all weights.

    Raises:
        CheckpointError: pieces are missing or do not fit; says which.
    """
    parts = find_parts(folder, with_backbone=student is None)
    details = {"path": str(folder), "layout": parts.layout}
    source = _source(parts, student, loras, details)
    # what is cheap to find out first: the other parts take long to read
    source.check()
    text = load_text(
        parts.text, parts.tokenizer, device=device, dtype=dtype, text_len=source.config.text_len
    )
    width = text.encoder.get_parameter("shared.weight").shape[1]
    if width != source.config.text_dim:
        raise CheckpointError(
            f"{source.what} reads text embeddings of {source.config.text_dim} values, but the text"
            f" encoder {parts.text} writes {width}; give parts of one model"
        )
    vae = load_vae(parts.vae, device=device, dtype=dtype)
    backbone = source.build(device=device, dtype=dtype)
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


def _source(
    parts: WanFolder, student: Path | None, given: Sequence[str], details: dict[str, str]
) -> BackboneSource:
    """What the backbone is made from; also said in `details`."""
    declared = read_config(parts.config)
    if student is None:
        what, weights = f"the backbone in {parts.backbone}", parts.weights()
        details["backbone"] = "the folder's own; a plain Wan2.1 makes no good video in few steps"
    else:
        found = read_student(student)
        what, weights = f"student {student}", found.weights
        declared = {name: declared[name] for name in SHARED if name in declared}
        details["student"] = found.describe()
    config = sizes_of(weights, what=what, declared=declared)
    loras = read_loras(given)
    if loras:
        details["loras"] = ", ".join(lora.describe() for lora in loras)
    return BackboneSource(what=what, config=config, weights=weights, loras=loras)
