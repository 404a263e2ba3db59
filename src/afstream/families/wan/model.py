"""Wan2.1 text-to-video models: a folder as it is downloaded, a student, LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from afstream.checkpoints import (
    BackboneSource,
    WanFolder,
    find_parts,
    read_loras,
    read_student,
    sizes_of,
)
from afstream.checkpoints.files import Weights
from afstream.config import BackboneConfig, SamplerConfig
from afstream.errors import CheckpointError
from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.wan.decoders import find_tiny, open_decoder
from afstream.families.wan.text import EncodedPrompts, load_text
from afstream.model.protocols import DenoisingBackbone, TextEncoder, VideoDecoder
from afstream.spec import TINY_VAE, ModelSpec, TextPlace

# of the text encoder, in words
PLACES: dict[TextPlace, str] = {
    "device": "on the device",
    "cpu": "on the cpu",
    "drop": "dropped after encoding",
}

# a student's own file tells its sizes; these it shares with what it was made from
SHARED = ("head_dim", "text_len", "eps")


def open_wan(
    spec: ModelSpec, family: ModelFamily, where: Placement, prompts: Sequence[str] = ()
) -> VideoModel:
    """Load a model folder of any layout; see `ModelFamily.open`.

    What the spec replaces may be absent. Prompts are encoded at once; a text encoder that is
    dropped afterwards knows no others.
    """
    folder = Path(spec.name)
    parts = find_parts(folder, with_backbone=spec.student is None, with_vae=spec.vae is None)
    source, made_from = backbone_source(parts, spec)
    place = PLACES[spec.text or "device"]
    details = {"path": str(folder), "layout": parts.layout, "text": place, **made_from}
    if parts.manifest:
        details["made_from"] = parts.manifest.origin
    if "student" not in made_from:
        details["backbone"] = "the folder's own; a plain Wan2.1 makes no good video in few steps"
    # what is cheap to find out first: the other parts take long to read
    source.check()
    # before the others, so that they find its room free when it is dropped
    text = _text(parts, spec.text, source, prompts, where)
    path = parts.place("VAE")
    if spec.vae is not None:
        details["vae"] = Path(spec.vae).name
        path = find_tiny(folder) if spec.vae == TINY_VAE else Path(spec.vae)
    vae = open_decoder(path, device=where.device, dtype=where.dtype)
    backbone = source.build(device=where.device, dtype=where.dtype, offload=spec.offload)
    return wan_model(folder.resolve().name, family, backbone, text, vae, details)


def wan_model(
    name: str,
    family: ModelFamily,
    backbone: DenoisingBackbone,
    text: TextEncoder,
    vae: VideoDecoder,
    details: dict[str, str],
) -> VideoModel:
    """A model of Wan's kind, with the sampler that the public students were distilled for."""
    return VideoModel(
        name=name,
        family=family,
        backbone=backbone,
        text=text,
        vae=vae,
        sampler=SamplerConfig(),
        details=details,
    )


def _text(
    parts: WanFolder,
    place: TextPlace | None,
    source: BackboneSource,
    prompts: Sequence[str],
    where: Placement,
) -> TextEncoder:
    """The text encoder in its place, prompts encoded."""
    text = load_text(
        parts.place("text encoder"),
        parts.place("tokenizer"),
        device="cpu" if place == "cpu" else where.device,
        dtype=where.dtype,
        text_len=source.config.text_len,
    )
    check_width(source, parts.place("text encoder"), text.encoder.get_parameter("shared.weight"))
    known = EncodedPrompts(text, prompts)
    return known if place == "drop" else text


def check_width(source: BackboneSource, text: Path, embedding: Tensor) -> None:
    """Raise `CheckpointError` unless a backbone can read what a text encoder writes.

    Of the encoder's embedding [tokens, text_dim] only the shape counts.
    """
    width = embedding.shape[1]
    if width != source.config.text_dim:
        raise CheckpointError(
            f"{source.what} reads text embeddings of {source.config.text_dim} values, but the text"
            f" encoder {text} writes {width}; give parts of one model"
        )


def backbone_source(parts: WanFolder, spec: ModelSpec) -> tuple[BackboneSource, dict[str, str]]:
    """What the backbone is made from; and the same in words, by name as in `Manifest.made_from`.

    Raises:
        CheckpointError: a file is missing, or holds something else.
    """
    declared, manifest = parts.declared(), parts.manifest
    made_from = dict(manifest.made_from) if manifest else {}
    if spec.vae is not None:
        made_from.pop("vae", None)
    if spec.student is None:
        what, weights = f"the backbone in {parts.place('backbone')}", parts.weights()
    else:
        found = read_student(Path(spec.student))
        what, weights = f"student {spec.student}", found.weights
        shared = {name: declared[name] for name in SHARED if name in declared}
        declared = {**shared, **found.declared}
        made_from["student"] = found.describe()
        # these went into the backbone whose place is taken
        made_from.pop("loras", None)
    config = sizes_of(weights, what=what, declared=declared)
    return with_loras(what, config, weights, spec, made_from)


def with_loras(
    what: str,
    config: BackboneConfig,
    weights: Weights,
    spec: ModelSpec,
    made_from: dict[str, str],
) -> tuple[BackboneSource, dict[str, str]]:
    """A source with a spec's LoRAs, which `made_from` then names behind those that were there."""
    loras = read_loras(spec.loras)
    if loras:
        before = [made_from["loras"]] if "loras" in made_from else []
        names = ", ".join([*before, *(lora.describe() for lora in loras)])
        made_from = {**made_from, "loras": names}
    source = BackboneSource(what=what, config=config, weights=weights, loras=loras)
    return source, made_from
