"""Wan2.1 text-to-video models: a folder as it is downloaded, a student, LoRA."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from afstream.checkpoints import (
    BackboneSource,
    Parts,
    read_loras,
    read_student,
    resolve,
    sizes_of,
)
from afstream.checkpoints.files import Weights
from afstream.checkpoints.kinds import FAMILY, Piece
from afstream.config import BackboneConfig, SamplerConfig
from afstream.errors import CheckpointError
from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.wan.decoders import open_decoder
from afstream.families.wan.text import EncodedPrompts, load_text
from afstream.model.protocols import DenoisingBackbone, TextEncoder, VideoDecoder
from afstream.spec import ModelSpec, TextPlace

# of the text encoder, in words
PLACES: dict[TextPlace, str] = {
    "device": "on the device",
    "cpu": "on the cpu",
    "drop": "dropped after encoding",
}

# of a run record, by the pieces that they name
DETAILS: dict[str, Piece] = {"vae": "VAE", "text_encoder": "text encoder"}

# a student's own file tells its sizes; these it shares with what it was made from
SHARED = ("head_dim", "text_len", "eps")

log = logging.getLogger(__name__)


def open_wan(
    spec: ModelSpec, family: ModelFamily, where: Placement, prompts: Sequence[str] = ()
) -> VideoModel:
    """Load a model folder of any layout; see `ModelFamily.open`.

    What the spec replaces may be absent. Prompts are encoded at once; a text encoder that is
    dropped afterwards knows no others.
    """
    parts = resolve(spec)
    source, made_from = backbone_source(parts, spec)
    details = {**_details(parts, spec), **made_from}
    # what is cheap to find out first: the other parts take long to read
    source.check()
    # before the others, so that they find its room free when it is dropped
    text = _text(parts, spec.text, source, prompts, where)
    vae = open_decoder(parts.place("VAE"), device=where.device, dtype=where.dtype)
    backbone = source.build(device=where.device, dtype=where.dtype, offload=spec.offload)
    return wan_model(parts.folder.path.resolve().name, family, backbone, text, vae, details)


def _details(parts: Parts, spec: ModelSpec) -> dict[str, str]:
    """What a run record says of the folder, and of the pieces that were chosen."""
    folder, place = parts.folder, PLACES[spec.text or "device"]
    details = {"path": str(folder.path), "layout": folder.layout, "text": place}
    taken = parts.taken()
    details |= {name: taken[piece] for name, piece in DETAILS.items() if piece in taken}
    if manifest := folder.manifest:
        details["made_from"] = manifest.origin
    if spec.student is None and not folder.is_student:
        own = parts.place("backbone")
        name = own.name if own.is_file() else "the folder's own"
        details["backbone"] = f"{name}; a plain Wan2.1 makes no good video in few steps"
    return details


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
    parts: Parts,
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


def backbone_source(parts: Parts, spec: ModelSpec) -> tuple[BackboneSource, dict[str, str]]:
    """What the backbone is made from; and the same in words, by name as in `Manifest.made_from`.

    Raises:
        CheckpointError: a file is missing, or holds something else.
    """
    folder, place = parts.folder, parts.place("backbone")
    made_from = dict(folder.manifest.made_from) if folder.manifest else {}
    for name, given in (("vae", spec.vae), ("text_encoder", spec.text_encoder_file)):
        if given is not None:
            made_from.pop(name, None)
    found = read_student(place)
    declared, what = found.declared, f"the backbone in {place}"
    if spec.student is not None:
        what = f"student {spec.student}"
        # a folder of another family says nothing of a student
        theirs = folder.declared() if folder.family == FAMILY else {}
        shared = {name: theirs[name] for name in SHARED if name in theirs}
        declared = {**shared, **declared}
        made_from["student"] = found.describe()
        # these went into the backbone whose place is taken
        made_from.pop("loras", None)
    if found.doubt:
        log.warning("%s", found.doubt)
    config = sizes_of(found.weights, what=what, declared=declared)
    return with_loras(what, config, found.weights, spec, made_from)


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
