"""Backbone weights from one file: a student of any of the public recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afstream.checkpoints.files import Weights, file_weights, plain_weights, read_weights
from afstream.checkpoints.manifest import BACKBONE_FILE, is_converted, read_manifest
from afstream.checkpoints.names import wan_name
from afstream.checkpoints.wrappers import renamed

# the moving average of the weights first: it makes the better pictures
ENTRIES = ("generator_ema", "generator")
MOVING_AVERAGE = ENTRIES[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """Weights of a backbone, and where they come from.

    Attributes:
        path: of the file, or of the converted folder.
        entry: which of `ENTRIES` was taken; empty when the file holds nothing but weights.
        weights: under Wan's names, views of the file.
        entries: all of `ENTRIES` that the file holds.
        declared: sizes that a converted folder declares; files declare none.
        origin: what a converted folder was made from.
    """

    path: Path
    weights: Weights
    entry: str = ""
    entries: tuple[str, ...] = ()
    declared: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origin: str = ""

    def describe(self) -> str:
        """The file's name, and which of its weights were taken."""
        name = self.path.name
        if self.origin:
            return f"{name} (converted from {self.origin})"
        if not self.entry:
            return name
        average = ", the moving average" if self.entry == MOVING_AVERAGE else ""
        return f"{name} ({self.entry}{average})"


def read_student(path: Path) -> Student:
    """Read a student: weights directly, or a dict with `generator_ema` and/or `generator`.

    A converted folder is one, too: its backbone is taken.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds something else.
    """
    if is_converted(path):
        manifest = read_manifest(path)
        return Student(
            path=path,
            weights=file_weights(path / BACKBONE_FILE),
            declared=manifest.backbone.sizes(),
            origin=manifest.origin,
        )
    content = read_weights(path)
    entries = entries_of(content)
    entry = next(iter(entries), "")
    wanted = f"a student, which holds weights by name, or one of {', '.join(ENTRIES)}"
    weights = plain_weights(entries.get(entry, content), path, wanted=wanted)
    return Student(
        path=path, entry=entry, weights=in_wan_names(weights, path), entries=tuple(entries)
    )


def entries_of(content: object) -> dict[str, object]:
    """Those of `ENTRIES` that a file's content has, each as a dict or as beginnings of names."""
    found: dict[str, object] = {}
    if not isinstance(content, dict):
        return found
    for entry in ENTRIES:
        part = content.get(entry) or {
            name.removeprefix(f"{entry}."): value
            for name, value in content.items()
            if isinstance(name, str) and name.startswith(f"{entry}.")
        }
        if isinstance(part, dict) and part:
            found[entry] = part
    return found


def in_wan_names(weights: Weights, path: Path) -> Weights:
    """Weights under Wan's names; see `renamed`."""
    return renamed(weights, path, wan_name)
