"""A backbone's weights: a file or a folder of them, a student of any of the public recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afstream.checkpoints.files import (
    Weights,
    is_folder,
    plain_weights,
    read_json,
    read_weights,
)
from afstream.checkpoints.lora.names import UNMERGED
from afstream.checkpoints.manifest import BACKBONE_FILE, is_converted, read_manifest
from afstream.checkpoints.names import BACKBONE_CLASS, CONFIG, STEM, wan_name
from afstream.checkpoints.shards import shard_files, weights_of
from afstream.checkpoints.sizes import read_config
from afstream.checkpoints.unmerged import is_unmerged, merged_weights
from afstream.checkpoints.wrappers import in_wan_names, is_weights, unwrapped
from afstream.errors import CheckpointError

# the moving average of the weights first: it makes the better pictures
ENTRIES = MOVING_AVERAGE, GENERATOR = ("generator_ema", "generator")
# ends of the names of a backbone's weights
PARAMETERS = (".weight", ".bias", "modulation")
# where a folder of diffusers' layout has its backbone
INNER = "transformer"
# Wan2.2's two backbones have Wan2.1's names and sizes, so nothing else tells them from students
EXPERT = re.compile(r"high[_-]?noise|low[_-]?noise|a14b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """Weights of a backbone, and where they come from.

    Attributes:
        path: of the file or the folder.
        entry: which of `ENTRIES` was taken; empty when the file holds nothing but weights.
        weights: under Wan's names, views of the files.
        entries: all of `ENTRIES` that the file holds.
        note: what one must know of these weights; empty where that is nothing.
        declared: sizes that a folder declares; files declare none.
        origin: what a converted folder was made from.
    """

    path: Path
    weights: Weights
    entry: str = ""
    entries: tuple[str, ...] = ()
    note: str = ""
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
        partial = ", as its moving average is partial" if self.note else ""
        return f"{name} ({self.entry}{average}{partial})"

    @property
    def doubt(self) -> str:
        """What its name says against it, a sentence; empty where it says nothing."""
        told = EXPERT.search("/".join(self.path.absolute().parts[-2:]))
        if told is None:
            return ""
        return (
            f"{self.path.name} seems to be one of Wan2.2's two backbones ({told[0]} in its path),"
            " which makes no good video alone; a Wan2.1 student does"
        )


def read_student(path: Path) -> Student:
    """Read a backbone: weights directly, or a dict with `generator_ema` and/or `generator`.

    The moving average is taken where it has every weight that `generator` has. A LoRA that PEFT
    left beside the weights is merged.

    A folder is one, too: a converted one, `transformer/`, or any with shards of one model.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds something else.
    """
    folder, paths = backbone_files(path)
    if is_converted(path):
        manifest = read_manifest(path)
        return Student(
            path=path,
            weights=weights_of(paths),
            declared=manifest.backbone.sizes(),
            origin=manifest.origin,
        )
    if folder is not None:
        weights = in_wan_names(weights_of(paths), folder)
        return Student(path=path, weights=weights, declared=read_config(folder / CONFIG))
    content = read_weights(path)
    entries = entries_of(content)
    note = _partial(entries, path)
    entry = GENERATOR if note else next(iter(entries), "")
    chosen = entries.get(entry, content)
    if is_unmerged(chosen):
        weights = merged_weights(chosen, content, path)
    else:
        wanted = f"a student, which holds weights by name, or one of {', '.join(ENTRIES)}"
        weights = in_wan_names(plain_weights(chosen, path, wanted=wanted), path)
    return Student(path=path, entry=entry, weights=weights, entries=tuple(entries), note=note)


def _partial(entries: Mapping[str, object], path: Path) -> str:
    """In words, how much a moving average lacks of the weights beside it; empty if nothing."""
    if len(entries) < len(ENTRIES):
        return ""
    average, whole = (_names(entries[entry], path) for entry in ENTRIES)
    if whole <= average:
        return ""
    return (
        f"its moving average ({MOVING_AVERAGE}) has {len(whole & average)} of the {len(whole)}"
        f" weights of {GENERATOR}, so {GENERATOR} is taken"
    )


def _names(entry: object, path: Path) -> set[str]:
    """Names of weights in Wan's words, LoRA or not."""
    content = unwrapped(entry, path)
    names = content if is_weights(content) else ()
    found = {wan_name(str(name).replace(UNMERGED, ".")) for name in names}
    # an average has no buffers, and a backbone needs none
    return {name for name in found if name.endswith(PARAMETERS)}


def is_backbone_folder(path: Path) -> bool:
    """Whether a folder is diffusers' folder of a backbone, which holds no other piece."""
    config = path / CONFIG
    name = read_json(config).get("_class_name") if config.is_file() else None
    return isinstance(name, str) and name.endswith(BACKBONE_CLASS) and not is_converted(path)


def backbone_files(path: Path) -> tuple[Path | None, Sequence[Path]]:
    """The folder that a backbone lies in, None for a file, and the files of its weights.

    Raises:
        CheckpointError: it is a folder without a backbone, or shards are missing.
    """
    if is_converted(path):
        return path, (path / BACKBONE_FILE,)
    if not is_folder(path):
        return None, (path,)
    for folder, stem in ((path, STEM), (path / INNER, STEM), (path, "")):
        if paths := shard_files(folder, stem):
            return folder, paths
    raise CheckpointError(
        f"{path} is a folder without weights of a backbone; give a student's file, or a folder with"
        " its config.json and its weights"
    )


def entries_of(content: object) -> dict[str, object]:
    """Those of `ENTRIES` that a file's content has, each as a dict or as beginnings of names."""
    found: dict[str, object] = {}
    if not isinstance(content, dict):
        return found
    for entry in ENTRIES:
        own = content.get(entry)
        flat = {
            name.removeprefix(f"{entry}."): value
            for name, value in content.items()
            if isinstance(name, str) and name.startswith(f"{entry}.")
        }
        if part := own if isinstance(own, dict) and own else flat:
            found[entry] = part
    return found
