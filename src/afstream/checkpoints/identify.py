"""What a file or a folder of Wan's is, told from names and shapes: no weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from afstream.checkpoints import files, names
from afstream.checkpoints.alone import (
    identify_file,
    lora_finding,
    part_finding,
    student_finding,
)
from afstream.checkpoints.findings import PLAIN, Finding
from afstream.checkpoints.kinds import (
    FAMILY,
    TWO_BACKBONES,
    Kind,
    Piece,
    has_two_backbones,
)
from afstream.checkpoints.layouts import WanFolder
from afstream.checkpoints.layouts.base import is_there
from afstream.checkpoints.layouts.entering import find_folder
from afstream.checkpoints.lora import is_lora_folder
from afstream.checkpoints.manifest import MANIFEST
from afstream.checkpoints.parts import no_model, several
from afstream.checkpoints.shards import folder_weights, shard_files, weights_of
from afstream.checkpoints.students import backbone_files, is_backbone_folder, read_student

# what a folder's pieces beside the backbone are, in the order in which they are shown
BESIDE: dict[Piece, Kind] = {
    "text encoder": "text encoder",
    "tokenizer": "tokenizer folder",
    "VAE": "Wan VAE",
}


def identify(path: Path) -> Finding:
    """Find out what a file or a folder is; its kind is `unknown` where it is nothing of Wan's.

    Raises:
        CheckpointError: it is damaged, no checkpoint, or a folder around those of models.
        OSError: it is out of reach.
    """
    return _folder(path) if path.is_dir() else identify_file(path)


def _folder(path: Path) -> Finding:
    config = files.read_json(path / names.CONFIG) if is_there(path / names.CONFIG) else {}
    if config.get("_class_name") == names.VAE_CLASS:
        return _part_folder(path, names.STEM)
    if config.get("model_type") == names.TEXT_TYPE:
        return _part_folder(path, names.TEXT_STEM)
    if is_lora_folder(path):
        return lora_finding(path)
    if any(is_there(path / file) for file in names.TOKENIZER_FILES):
        if lost := next(filter(None, map(files.dangling, sorted(path.iterdir()))), None):
            raise lost
        return Finding(path=path, kind="tokenizer folder")
    folder = find_folder(path)
    if folder is None and has_two_backbones(path):
        return Finding(path=path, kind="Wan folder", family=TWO_BACKBONES)
    if folder is None:
        note = "there is no part of a model in it"
        return Finding(path=path, kind="unknown", fault=no_model(path), notes=(note,))
    return _backbone_part(folder) if is_backbone_folder(path) else _wan_folder(folder)


def _part_folder(path: Path, stem: str) -> Finding:
    """A VAE's or a text encoder's folder."""
    weights = folder_weights(path, stem)
    finding = Finding(path=path, kind="unknown", num_bytes=_size(shard_files(path, stem)))
    return part_finding(finding, weights)


def _wan_folder(folder: WanFolder) -> Finding:
    parts = _parts(folder)
    others = (one.family for one in parts if one.family not in ("", FAMILY))
    family = folder.family
    finding = Finding(
        path=folder.path,
        kind="converted folder" if folder.layout == "converted" else "Wan folder",
        family=family if family != FAMILY else next(others, FAMILY),
        layout=folder.layout,
        is_student=folder.is_student,
        num_bytes=sum(one.num_bytes for one in parts),
        parts=tuple(parts),
        places=_places(folder),
        manifest=folder.manifest,
    )
    if backbone := next((one for one in parts if one.backbone), None):
        finding = replace(finding, backbone=backbone.backbone, weights=backbone.weights)
    return replace(finding, notes=_folder_notes(finding, folder))


def _places(folder: WanFolder) -> dict[Piece, Path]:
    """Where the pieces beside the backbone belong."""
    return {piece: folder.places[piece] for piece in BESIDE}


def _parts(folder: WanFolder) -> list[Finding]:
    """A finding for each piece that is there; one with a fault where several could be it."""
    parts: list[Finding] = []
    kinds_of: dict[Piece, Kind] = {"backbone": "backbone weights", **BESIDE}
    for piece, kind in kinds_of.items():
        if choices := folder.choices(piece):
            fault, place = several(folder, piece, choices), folder.path / folder.places[piece]
            parts.append(Finding(path=place, kind=kind, family=FAMILY, fault=fault))
        elif folder.has(piece):
            own = piece == "backbone"
            parts.append(_backbone_part(folder) if own else identify(folder.place(piece)))
    return parts


def _folder_notes(finding: Finding, folder: WanFolder) -> tuple[str, ...]:
    manifest = finding.manifest
    if finding.kind == "converted folder" and manifest is None:
        return (f"it lacks {MANIFEST}: convert the model again",)
    changed = manifest.changed(finding.path) if manifest else []
    return (
        *(f"{path} is taken as the {piece}" for piece, path in folder.unusual().items()),
        *([PLAIN] if finding.supported and not finding.is_student else []),
        *(f"{name} is not as it was written: convert the model again" for name in changed),
    )


def _backbone_part(folder: WanFolder) -> Finding:
    """The backbone of a folder, as a finding of its own."""
    place = folder.place("backbone")
    _, paths = backbone_files(place)
    student = read_student(place) if folder.family == FAMILY else None
    finding = Finding(
        path=paths[0] if folder.layout == "converted" else place,
        kind="backbone weights",
        family=folder.family,
        layout=folder.layout,
        weights={} if student else weights_of(paths),
        num_bytes=_size(paths),
    )
    what = f"the backbone in {place}"
    return student_finding(finding, student, what) if student else finding


def _size(paths: Iterable[Path]) -> int:
    """Bytes of files."""
    return sum(path.stat().st_size for path in paths)
