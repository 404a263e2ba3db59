"""What a file or a folder is, told from names and shapes: no weight is read, no code run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from afstream.checkpoints.families import (
    FAMILY,
    TWO_BACKBONES,
    declared_family,
    family_of,
    has_two_backbones,
)
from afstream.checkpoints.files import folder_weights, named_tensors, read_json, shard_files
from afstream.checkpoints.findings import (
    PIECES,
    PLAIN,
    Finding,
    Kind,
    LoraFinding,
    Piece,
    lacking,
    short,
    size_name,
    weight_shapes,
)
from afstream.checkpoints.folders import CONFIG, STEM, WanFolder, likely_parts
from afstream.checkpoints.lora import ENTRY as LORA_ENTRY
from afstream.checkpoints.lora import Lora, check_layers, is_lora_name, read_lora
from afstream.checkpoints.manifest import BACKBONE_FILE, MANIFEST
from afstream.checkpoints.sizes import CHANNELS, read_config, sizes_of
from afstream.checkpoints.students import ENTRIES, in_wan_names, read_student
from afstream.checkpoints.weights import Weights, read_metadata, read_weights
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.errors import CheckpointError
from afstream.model.dit import Backbone

POCKET = "afstream-pocket"
TEXT_STEM = "model"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
# what a config.json calls its model
VAE_CLASS = "AutoencoderKLWan"
BACKBONE_CLASS = "WanTransformer3DModel"
TEXT_TYPE = "umt5"
BACKBONE_NAMES = ("patch_embedding.weight", "blocks.0.ffn.0.weight")
# TAEHV: a numbered sequence with blocks of three convolutions in it
TINY_FIRST = "decoder.1.weight"
TINY_BLOCK = re.compile(r"decoder\.\d+\.conv\.0\.weight")
SHOWN_NAMES = 3


class Signature(NamedTuple):
    """Names that only one kind of weights has.

    Attributes:
        kind: which.
        layout: who names them so.
        names: all must be there.
        channels: a weight, and its axis that counts latent channels; None where none does.
    """

    kind: Kind
    layout: str
    names: tuple[str, ...]
    channels: tuple[str, int] | None = None


SIGNATURES = (
    Signature(
        "Wan VAE",
        "original",
        ("encoder.conv1.weight", "decoder.conv1.weight"),
        ("conv2.weight", 0),
    ),
    Signature(
        "Wan VAE",
        "diffusers",
        ("encoder.conv_in.weight", "decoder.conv_in.weight"),
        ("post_quant_conv.weight", 0),
    ),
    Signature("text encoder", "original", ("token_embedding.weight", "blocks.0.attn.q.weight")),
    Signature("text encoder", "transformers", ("encoder.block.0.layer.0.SelfAttention.q.weight",)),
)
PROVIDES: dict[Kind, tuple[Piece, ...]] = {
    "pocket model": PIECES,
    "student": ("backbone",),
    "backbone weights": ("backbone",),
    "Wan VAE": ("VAE",),
    "tiny VAE": ("VAE",),
    "text encoder": ("text encoder",),
    "tokenizer folder": ("tokenizer",),
}


def identify(path: Path) -> Finding:
    """Find out what a file or a folder is.

    Raises:
        CheckpointError: it is out of reach, damaged, or no checkpoint.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if path.exists():
            return _file(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be reached: {error.strerror}; give the path of a file or a folder"
        ) from error
    raise CheckpointError(f"there is nothing at {path}; give the path of a file or a folder")


def _file(path: Path) -> Finding:
    content = read_weights(path)
    num_bytes = path.stat().st_size
    if read_metadata(path).get("kind") == POCKET:
        dtypes = _dtypes(content)
        pocket: Kind = "pocket model"
        return Finding(
            path=path, kind=pocket, dtypes=dtypes, num_bytes=num_bytes, provides=PROVIDES[pocket]
        )
    known = content if isinstance(content, dict) else {}
    if any(known.get(name) for name in ENTRIES):
        return _student(path, num_bytes)
    if LORA_ENTRY in known or any(is_lora_name(str(name)) for name in known):
        return _lora(read_lora(path), num_bytes)
    weights = named_tensors(content, path, wanted="a file of weights, a student or a LoRA")
    if all(name in in_wan_names(weights) for name in BACKBONE_NAMES):
        return _student(path, num_bytes)
    return _weights(path, weights, num_bytes)


def _student(path: Path, num_bytes: int) -> Finding:
    """A student's file, or a backbone's: they differ in the entries alone."""
    student = read_student(path)
    finding = Finding(
        path=path,
        kind="student" if student.entry else "backbone weights",
        num_bytes=num_bytes,
        entries=student.entries,
        entry=student.entry,
    )
    return _backbone(finding, student.weights, student.declared)


def _backbone(finding: Finding, weights: Weights, declared: Mapping[str, Any]) -> Finding:
    """A finding with what the backbone's weights, under Wan's names, say of it."""
    finding = replace(finding, dtypes=_dtypes(weights), provides=PROVIDES[finding.kind])
    if any(name not in weights for name in BACKBONE_NAMES):
        return _unknown(finding, weights)
    family = family_of(weights)
    if family != FAMILY:
        return replace(finding, family=family, provides=())
    finding = replace(finding, shapes=weight_shapes(weights))
    try:
        config = sizes_of(weights, what=str(finding.path), declared=declared)
    except CheckpointError as error:
        return replace(
            finding, family=family, missing=lacking(finding.provides), notes=(str(error),)
        )
    size = size_name(config)
    missing = lacking(finding.provides, size)
    return replace(finding, family=family, backbone=config, size=size, missing=missing)


def _lora(lora: Lora, num_bytes: int) -> Finding:
    layers = {name: pair.shape for name, pair in lora.pairs.items()}
    fits = tuple(
        short(name)
        for name, config in WAN_BACKBONES.items()
        if _fits(lora.path, layers, _made_up(config))
    )
    halves = [half for pair in lora.pairs.values() for half in (pair.down, pair.up)]
    found = LoraFinding(
        ranks=tuple(sorted({pair.down.shape[0] for pair in lora.pairs.values()})),
        alphas=tuple(sorted({pair.alpha for pair in lora.pairs.values()})),
        alpha_from=lora.alpha_from,
        layers=layers,
        fits=fits,
    )
    size = fits[0] if fits else ""
    return Finding(
        path=lora.path,
        kind="LoRA",
        family=FAMILY,
        size=size,
        dtypes=_dtypes({str(index): half for index, half in enumerate(halves)}),
        num_bytes=num_bytes,
        lora=found,
        missing=lacking((), size),
    )


def _made_up(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a backbone's weights, from its sizes alone."""
    with torch.device("meta"):
        return weight_shapes(Backbone(config).state_dict())


def _fits(
    path: Path, layers: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> bool:
    try:
        check_layers(path, layers, shapes)
    except CheckpointError:
        return False
    return True


def _weights(path: Path, weights: Weights, num_bytes: int) -> Finding:
    """What weights by name are, when they are no backbone."""
    finding = Finding(path=path, kind="unknown", dtypes=_dtypes(weights), num_bytes=num_bytes)
    for kind, layout, names, channels in SIGNATURES:
        if all(name in weights for name in names):
            return _piece(replace(finding, kind=kind, layout=layout), weights, channels)
    if TINY_FIRST in weights and any(map(TINY_BLOCK.fullmatch, weights)):
        return _piece(replace(finding, kind="tiny VAE"), weights, (TINY_FIRST, 1))
    return _unknown(finding, weights)


def _piece(finding: Finding, weights: Weights, channels: tuple[str, int] | None) -> Finding:
    provides = PROVIDES[finding.kind]
    name, axis = channels or ("", 0)
    shape = weights[name].shape if name in weights else ()
    if channels and (len(shape) <= axis or shape[axis] != CHANNELS):
        count = shape[axis] if axis < len(shape) else "unknown"
        return replace(finding, family=f"of a model with {count} latent channels")
    return replace(finding, family=FAMILY, provides=provides, missing=lacking(provides))


def _unknown(finding: Finding, weights: Weights) -> Finding:
    names = ", ".join(sorted(weights)[:SHOWN_NAMES])
    note = f"it holds weights of no kind that is known here, such as {names}"
    return replace(finding, kind="unknown", provides=(), notes=(note,))


def _folder(path: Path) -> Finding:
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    name = config.get("_class_name")
    if name == VAE_CLASS:
        return _part_folder(path, STEM)
    if config.get("model_type") == TEXT_TYPE:
        return _part_folder(path, TEXT_STEM)
    if has_two_backbones(path):
        return Finding(path=path, kind="Wan folder", family=TWO_BACKBONES)
    parts = likely_parts(path)
    if parts is not None and (parts.layout == "converted" or name != BACKBONE_CLASS):
        return _wan_folder(parts)
    if parts is not None:
        return _backbone_part(parts)
    if any((path / file).is_file() for file in TOKENIZER_FILES):
        provides = PROVIDES["tokenizer folder"]
        return Finding(
            path=path, kind="tokenizer folder", provides=provides, missing=lacking(provides)
        )
    return Finding(path=path, kind="unknown", notes=("there is no part of a model in it",))


def _part_folder(path: Path, stem: str) -> Finding:
    """A VAE's or a text encoder's folder."""
    num_bytes = sum(file.stat().st_size for file in shard_files(path, stem))
    return _weights(path, folder_weights(path, stem), num_bytes)


def _wan_folder(parts: WanFolder) -> Finding:
    kind: Kind = "converted folder" if parts.layout == "converted" else "Wan folder"
    found = [
        *([_backbone_part(parts)] if parts.has_backbone() else []),
        *(identify(path) for path in (parts.text, parts.tokenizer, parts.vae) if path.exists()),
    ]
    there: set[Piece] = {piece for one in found for piece in one.provides}
    provides: tuple[Piece, ...] = tuple(piece for piece in PIECES if piece in there)
    backbone = next((one for one in found if "backbone" in one.provides), None)
    size = backbone.size if backbone else ""
    other = next((one.family for one in found if one.family not in ("", FAMILY)), "")
    dtypes: Counter[str] = Counter()
    for one in found:
        dtypes.update(one.dtypes)
    has_manifest = (parts.path / MANIFEST).is_file()
    finding = Finding(
        path=parts.path,
        kind=kind,
        family=other or FAMILY,
        size=size,
        backbone=backbone.backbone if backbone else None,
        shapes=backbone.shapes if backbone else {},
        layout=parts.layout,
        dtypes=dict(dtypes),
        num_bytes=sum(one.num_bytes for one in found),
        parts=tuple(replace(one, missing=()) for one in found),
        manifest=parts.manifest if has_manifest else None,
        provides=provides,
        missing=() if other else lacking(provides, size, _names(parts)),
    )
    return replace(finding, notes=_folder_notes(finding))


def _folder_notes(finding: Finding) -> tuple[str, ...]:
    manifest = finding.manifest
    if finding.kind == "converted folder" and manifest is None:
        return (f"it lacks {MANIFEST}: convert the model again",)
    changed = manifest.changed(finding.path) if manifest else []
    plain = finding.supported and "student" not in (manifest.made_from if manifest else {})
    return (
        *([PLAIN] if plain else []),
        *(f"{name} is not as it was written: convert the model again" for name in changed),
    )


def _names(parts: WanFolder) -> dict[Piece, str]:
    """Pieces with the paths where they are expected."""
    places: dict[Piece, Path] = {
        "text encoder": parts.text,
        "tokenizer": parts.tokenizer,
        "VAE": parts.vae,
    }
    return {piece: f"{piece} ({path.relative_to(parts.path)})" for piece, path in places.items()}


def _backbone_part(parts: WanFolder) -> Finding:
    """The backbone of a folder, as a finding of its own."""
    finding = Finding(path=parts.backbone, kind="backbone weights", layout=parts.layout)
    if parts.layout == "converted":
        finding = replace(
            finding,
            path=parts.backbone / BACKBONE_FILE,
            num_bytes=(parts.backbone / BACKBONE_FILE).stat().st_size,
        )
        has_manifest = (parts.path / MANIFEST).is_file()
        return _backbone(finding, parts.weights(), parts.declared() if has_manifest else {})
    num_bytes = sum(file.stat().st_size for file in shard_files(parts.backbone, STEM))
    finding = replace(finding, num_bytes=num_bytes)
    config = parts.backbone / CONFIG
    if config.is_file() and (family := declared_family(read_json(config))) != FAMILY:
        dtypes = _dtypes(parts.weights())
        return replace(finding, family=family, dtypes=dtypes)
    return _backbone(finding, parts.weights(), read_config(config))


def _dtypes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Parameters by dtype."""
    counts: Counter[str] = Counter()
    for value in weights.values():
        counts[str(value.dtype).removeprefix("torch.")] += value.numel()
    return dict(counts)
