"""What a single file of Wan's is, told from names and shapes: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from afstream.checkpoints import files, kinds
from afstream.checkpoints.backbone import BackboneSource
from afstream.checkpoints.files import Weights
from afstream.checkpoints.findings import Finding
from afstream.checkpoints.kinds import FAMILY
from afstream.checkpoints.lora import is_lora, read_lora
from afstream.checkpoints.sizes import sizes_of
from afstream.checkpoints.students import Student, entries_of, read_student
from afstream.checkpoints.unmerged import is_unmerged
from afstream.checkpoints.wrappers import in_wan_names
from afstream.errors import CheckpointError
from afstream.validation import show_name

# a width of heads that most sizes can be split into
ANY_HEAD = 64
# names of unknown weights that a note repeats
SHOWN_NAMES = 3


def identify_file(path: Path) -> Finding:
    """Find out what a file is; its kind is `unknown` where it is nothing of Wan's.

    Raises:
        CheckpointError: it is damaged, or no checkpoint.
        OSError: it is out of reach.
    """
    content = files.read_weights(path)
    finding = Finding(path=path, kind="unknown", num_bytes=path.stat().st_size)
    known = content if isinstance(content, dict) else {}
    if entries_of(content) or is_unmerged(content):
        return student_finding(finding, read_student(path))
    if is_lora(known):
        return lora_finding(path)
    weights = files.plain_weights(content, path, wanted="a file of weights, a student or a LoRA")
    if kinds.is_backbone(in_wan_names(weights, path)):
        return student_finding(finding, read_student(path))
    return part_finding(finding, weights)


def lora_finding(path: Path) -> Finding:
    """A LoRA's file, or the folder that it was saved in."""
    lora = read_lora(path)
    size = lora.path.stat().st_size
    return Finding(path=path, kind="LoRA", family=FAMILY, lora=lora, num_bytes=size)


def student_finding(finding: Finding, student: Student, what: str = "") -> Finding:
    """A student's file, or a backbone's: they differ in the entries alone.

    `what` is what errors call it when a model is opened; a student unless given.
    """
    kind = "student" if student.entry else "backbone weights"
    finding = replace(finding, kind=kind, entries=student.entries, entry=student.entry)
    what = what or f"student {finding.path}"
    finding = backbone_finding(finding, student.weights, student.declared, what)
    return replace(finding, notes=(*finding.notes, *filter(None, [student.note, student.doubt])))


def backbone_finding(
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


def part_finding(finding: Finding, weights: Weights) -> Finding:
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
