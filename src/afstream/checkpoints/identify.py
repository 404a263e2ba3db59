"""What a file or a folder of Wan's is, told from names and shapes: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from afstream.checkpoints import files, kinds, names
from afstream.checkpoints.backbone import BackboneSource
from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.files import Weights
from afstream.checkpoints.findings import PLAIN, Finding, is_plain
from afstream.checkpoints.folders import WanFolder, likely_parts
from afstream.checkpoints.kinds import FAMILY
from afstream.checkpoints.lora import is_lora, is_lora_folder, read_lora
from afstream.checkpoints.manifest import MANIFEST
from afstream.checkpoints.shards import folder_weights, shard_files
from afstream.checkpoints.sizes import sizes_of
from afstream.checkpoints.students import entries_of, in_wan_names, read_student
from afstream.errors import CheckpointError
from afstream.validation import show_name

# a width of heads that most sizes can be split into
ANY_HEAD = 64
# names of unknown weights that a note repeats
SHOWN_NAMES = 3


def identify(path: Path) -> Finding:
    """Find out what a file or a folder is; its kind is `unknown` where it is nothing of Wan's.

    Raises:
        CheckpointError: it is damaged, or no checkpoint.
        OSError: it is out of reach.
    """
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Path) -> Finding:
    content = files.read_weights(path)
    finding = Finding(path=path, kind="unknown", num_bytes=path.stat().st_size)
    known = content if isinstance(content, dict) else {}
    if entries_of(content):
        return _student(finding)
    if is_lora(known):
        return _lora(path)
    weights = files.plain_weights(content, path, wanted="a file of weights, a student or a LoRA")
    is_backbone = kinds.is_backbone(in_wan_names(weights, path))
    return _student(finding) if is_backbone else _part(finding, weights)


def _lora(path: Path) -> Finding:
    """A LoRA's file, or the folder that it was saved in."""
    lora = read_lora(path)
    size = lora.path.stat().st_size
    return Finding(path=path, kind="LoRA", family=FAMILY, lora=lora, num_bytes=size)


def _student(finding: Finding) -> Finding:
    """A student's file, or a backbone's: they differ in the entries alone."""
    student = read_student(finding.path)
    kind = "student" if student.entry else "backbone weights"
    finding = replace(finding, kind=kind, entries=student.entries, entry=student.entry)
    what = f"student {finding.path}"
    return _backbone(finding, student.weights, student.declared, what)


def _backbone(
    finding: Finding, weights: Weights, declared: Mapping[str, Any], what: str
) -> Finding:
    """A finding with what the backbone's weights, under Wan's names, say of it.

    `what` is what errors call them when a model is opened.
    """
    finding = replace(finding, weights=weights)
    if not kinds.is_backbone(weights):
        return _unknown(finding)
    finding = replace(finding, family=kinds.family_of(weights))
    try:
        sizes_of(weights, what=what, declared=declared)
        note = ""
    except CheckpointError as error:
        # a folder may say how wide its heads are; names and shapes are the same for any width
        width = math.gcd(weights["patch_embedding.weight"].shape[0], ANY_HEAD)
        declared, note = {"head_dim": width, **declared}, str(error)
    try:
        config = sizes_of(weights, what=what, declared=declared)
        # what generating asks of it
        BackboneSource(what=what, config=config, weights=weights).check()
    except CheckpointError as error:
        return replace(finding, fault=str(error))
    return replace(finding, notes=(note,)) if note else replace(finding, backbone=config)


def _part(finding: Finding, weights: Weights) -> Finding:
    """What weights by name are, when they are no backbone."""
    finding = replace(finding, weights=weights)
    found = kinds.part_of(weights)
    if found is None:
        return _unknown(finding)
    kind, layout, family = found
    return replace(finding, kind=kind, layout=layout, family=family)


def _unknown(finding: Finding) -> Finding:
    some = ", ".join(map(show_name, sorted(finding.weights)[:SHOWN_NAMES]))
    note = f"it holds weights of no kind that is known here, such as {some}"
    return replace(finding, kind="unknown", notes=(note,))


def _folder(path: Path) -> Finding:
    config = files.read_json(path / names.CONFIG) if (path / names.CONFIG).is_file() else {}
    name = config.get("_class_name")
    if name == names.VAE_CLASS:
        return _part_folder(path, names.STEM)
    if config.get("model_type") == names.TEXT_TYPE:
        return _part_folder(path, names.TEXT_STEM)
    if is_lora_folder(path):
        return _lora(path)
    if kinds.has_two_backbones(path):
        return Finding(path=path, kind="Wan folder", family=kinds.TWO_BACKBONES)
    parts = likely_parts(path)
    if parts is not None:
        alone = name == names.BACKBONE_CLASS and parts.layout != "converted"
        return _backbone_part(parts) if alone else _wan_folder(parts)
    if any((path / file).is_file() for file in names.TOKENIZER_FILES):
        return Finding(path=path, kind="tokenizer folder")
    return Finding(path=path, kind="unknown", notes=("there is no part of a model in it",))


def _part_folder(path: Path, stem: str) -> Finding:
    """A VAE's or a text encoder's folder."""
    weights = folder_weights(path, stem)
    finding = Finding(path=path, kind="unknown", num_bytes=_size(shard_files(path, stem)))
    return _part(finding, weights)


def _wan_folder(parts: WanFolder) -> Finding:
    found = [
        *([_backbone_part(parts)] if parts.has_backbone() else []),
        *(
            identify(path)
            for path in (parts.place("text encoder"), parts.place("tokenizer"), parts.place("VAE"))
            if path.exists()
        ),
    ]
    finding = Finding(
        path=parts.path,
        kind="converted folder" if parts.layout == "converted" else "Wan folder",
        family=next((one.family for one in found if one.family not in ("", FAMILY)), FAMILY),
        layout=parts.layout,
        num_bytes=sum(one.num_bytes for one in found),
        parts=tuple(found),
        places=parts.places(),
        manifest=parts.manifest,
    )
    if backbone := next((one for one in found if one.backbone), None):
        finding = replace(finding, backbone=backbone.backbone, weights=backbone.weights)
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
    paths, config = parts.backbone_files(), parts.place("backbone") / names.CONFIG
    weights = parts.weights()
    finding = Finding(
        path=paths[0] if parts.layout == "converted" else parts.place("backbone"),
        kind="backbone weights",
        layout=parts.layout,
        num_bytes=_size(paths),
        weights=weights,
    )
    family = (
        kinds.declared_family(files.read_settings(config, BackboneFile))
        if config.is_file()
        else FAMILY
    )
    if family != FAMILY:
        return replace(finding, family=family)
    what = f"the backbone in {parts.place('backbone')}"
    return _backbone(finding, finding.weights, parts.declared(), what)


def _size(paths: Iterable[Path]) -> int:
    """Bytes of files."""
    return sum(path.stat().st_size for path in paths)
