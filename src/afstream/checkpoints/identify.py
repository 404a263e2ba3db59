"""What a file or a folder is, told from names and shapes: no weight is read, no code run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.files import (
    folder_weights,
    named_tensors,
    read_json,
    read_settings,
    shard_files,
)
from afstream.checkpoints.findings import Finding, LoraFinding, short, weight_shapes
from afstream.checkpoints.folders import WanFolder, likely_parts
from afstream.checkpoints.lora import Lora, check_layers
from afstream.checkpoints.lora_files import is_lora, read_lora
from afstream.checkpoints.manifest import BACKBONE_FILE, MANIFEST
from afstream.checkpoints.names import (
    BACKBONE_CLASS,
    CONFIG,
    POCKET,
    STEM,
    TEXT_STEM,
    TEXT_TYPE,
    TOKENIZER_FILES,
    VAE_CLASS,
)
from afstream.checkpoints.signatures import is_backbone, signature_of
from afstream.checkpoints.sizes import read_config, sizes_of
from afstream.checkpoints.students import ENTRIES, in_wan_names, read_student
from afstream.checkpoints.together import PLAIN, is_plain
from afstream.checkpoints.wan_kinds import (
    FAMILY,
    TWO_BACKBONES,
    declared_family,
    family_of,
    has_two_backbones,
)
from afstream.checkpoints.weights import Weights, read_metadata, read_weights
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.errors import CheckpointError
from afstream.model.dit import Backbone

# names of unknown weights that a note repeats
SHOWN_NAMES = 3


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
    finding = Finding(path=path, kind="unknown", num_bytes=path.stat().st_size)
    if read_metadata(path).get("kind") == POCKET:
        return replace(finding, kind="pocket model", dtypes=_dtypes(content.values()))
    known = content if isinstance(content, dict) else {}
    if any(known.get(name) for name in ENTRIES):
        return _student(finding)
    if is_lora(known):
        return _lora(finding, read_lora(path))
    weights = named_tensors(content, path, wanted="a file of weights, a student or a LoRA")
    return _student(finding) if is_backbone(in_wan_names(weights)) else _part(finding, weights)


def _student(finding: Finding) -> Finding:
    """A student's file, or a backbone's: they differ in the entries alone."""
    student = read_student(finding.path)
    kind = "student" if student.entry else "backbone weights"
    finding = replace(finding, kind=kind, entries=student.entries, entry=student.entry)
    return _backbone(finding, student.weights, student.declared)


def _backbone(finding: Finding, weights: Weights, declared: Mapping[str, Any]) -> Finding:
    """A finding with what the backbone's weights, under Wan's names, say of it."""
    finding = replace(finding, dtypes=_dtypes(weights.values()))
    if not is_backbone(weights):
        return _unknown(finding, weights)
    family = family_of(weights)
    if family != FAMILY:
        return replace(finding, family=family)
    finding = replace(finding, family=family, shapes=weight_shapes(weights))
    try:
        config = sizes_of(weights, what=str(finding.path), declared=declared)
    except CheckpointError as error:
        return replace(finding, notes=(str(error),))
    return replace(finding, backbone=config)


def _lora(finding: Finding, lora: Lora) -> Finding:
    pairs = lora.pairs.values()
    layers = {name: pair.shape for name, pair in lora.pairs.items()}
    found = LoraFinding(
        ranks=tuple(sorted({pair.down.shape[0] for pair in pairs})),
        alphas=tuple(sorted({pair.alpha for pair in pairs})),
        alpha_from=lora.alpha_from,
        layers=layers,
        fits=tuple(
            short(name)
            for name, config in WAN_BACKBONES.items()
            if _fits(lora.path, layers, config)
        ),
    )
    dtypes = _dtypes(half for pair in pairs for half in (pair.down, pair.up))
    return replace(finding, kind="LoRA", family=FAMILY, dtypes=dtypes, lora=found)


def _fits(path: Path, layers: Mapping[str, tuple[int, ...]], config: BackboneConfig) -> bool:
    """Whether a backbone of some sizes has all layers that a LoRA changes."""
    with torch.device("meta"):
        shapes = weight_shapes(Backbone(config).state_dict())
    try:
        check_layers(path, layers, shapes)
    except CheckpointError:
        return False
    return True


def _part(finding: Finding, weights: Weights) -> Finding:
    """What weights by name are, when they are no backbone."""
    finding = replace(finding, dtypes=_dtypes(weights.values()))
    found = signature_of(weights)
    if found is None:
        return _unknown(finding, weights)
    return replace(finding, kind=found.kind, layout=found.layout, family=found.family(weights))


def _unknown(finding: Finding, weights: Weights) -> Finding:
    names = ", ".join(sorted(weights)[:SHOWN_NAMES])
    note = f"it holds weights of no kind that is known here, such as {names}"
    return replace(finding, kind="unknown", notes=(note,))


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
    if parts is not None:
        alone = name == BACKBONE_CLASS and parts.layout != "converted"
        return _backbone_part(parts) if alone else _wan_folder(parts)
    if any((path / file).is_file() for file in TOKENIZER_FILES):
        return Finding(path=path, kind="tokenizer folder")
    return Finding(path=path, kind="unknown", notes=("there is no part of a model in it",))


def _part_folder(path: Path, stem: str) -> Finding:
    """A VAE's or a text encoder's folder."""
    finding = Finding(path=path, kind="unknown", num_bytes=_size(shard_files(path, stem)))
    return _part(finding, folder_weights(path, stem))


def _wan_folder(parts: WanFolder) -> Finding:
    found = [
        *([_backbone_part(parts)] if parts.has_backbone() else []),
        *(identify(path) for path in (parts.text, parts.tokenizer, parts.vae) if path.exists()),
    ]
    backbone = next((one for one in found if one.backbone), None)
    dtypes: Counter[str] = Counter()
    for one in found:
        dtypes.update(one.dtypes)
    finding = Finding(
        path=parts.path,
        kind="converted folder" if parts.layout == "converted" else "Wan folder",
        family=next((one.family for one in found if one.family not in ("", FAMILY)), FAMILY),
        backbone=backbone.backbone if backbone else None,
        shapes=backbone.shapes if backbone else {},
        layout=parts.layout,
        dtypes=dict(dtypes),
        num_bytes=sum(one.num_bytes for one in found),
        parts=tuple(found),
        places=parts.places(),
        manifest=parts.manifest if (parts.path / MANIFEST).is_file() else None,
    )
    return replace(finding, notes=_folder_notes(finding))


def _folder_notes(finding: Finding) -> tuple[str, ...]:
    manifest = finding.manifest
    if finding.kind == "converted folder" and manifest is None:
        return (f"it lacks {MANIFEST}: convert the model again",)
    changed = manifest.changed(finding.path) if manifest else []
    return (
        *([PLAIN] if finding.supported and is_plain(finding) else []),
        *(f"{name} is not as it was written: convert the model again" for name in changed),
    )


def _backbone_part(parts: WanFolder) -> Finding:
    """The backbone of a folder, as a finding of its own."""
    finding = Finding(path=parts.backbone, kind="backbone weights", layout=parts.layout)
    if parts.layout == "converted":
        file = parts.backbone / BACKBONE_FILE
        finding = replace(finding, path=file, num_bytes=_size([file]))
        has_manifest = (parts.path / MANIFEST).is_file()
        return _backbone(finding, parts.weights(), parts.declared() if has_manifest else {})
    finding = replace(finding, num_bytes=_size(shard_files(parts.backbone, STEM)))
    config = parts.backbone / CONFIG
    if config.is_file():
        family = declared_family(read_settings(config, BackboneFile))
        if family != FAMILY:
            return replace(finding, family=family, dtypes=_dtypes(parts.weights().values()))
    return _backbone(finding, parts.weights(), read_config(config))


def _size(files: Iterable[Path]) -> int:
    """Bytes of files."""
    return sum(file.stat().st_size for file in files)


def _dtypes(weights: Iterable[Tensor]) -> dict[str, int]:
    """Parameters by dtype."""
    counts: Counter[str] = Counter()
    for value in weights:
        counts[str(value.dtype).removeprefix("torch.")] += value.numel()
    return dict(counts)
