"""A folder with the pieces of a model: which layout it has, and what was found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.files import read_json, read_settings
from afstream.checkpoints.kinds import (
    FAMILY,
    PIECES,
    TWO_BACKBONES,
    Piece,
    declared_family,
    has_two_backbones,
)
from afstream.checkpoints.manifest import MANIFEST, Manifest, read_manifest
from afstream.checkpoints.names import CAUSAL_CLASS, CONFIG
from afstream.checkpoints.sizes import read_config

LayoutName = Literal["original", "diffusers", "converted", "ComfyUI"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WanFolder:
    """A folder and who arranged it, whether all pieces of a model are there or not.

    Attributes:
        places: where each piece belongs, relative to the folder; of a backbone, its files.
        found: what can be each piece, by a path each; several where the folder leaves the choice.
        config: the folder of the backbone's `config.json`; None where the layout has none.
        lacks: files that the layout needs beside the pieces and that are not there.
        unread: files that may be pieces and cannot be read.
    """

    path: Path
    layout: LayoutName
    places: Mapping[Piece, Path]
    found: Mapping[Piece, Sequence[Path]]
    config: Path | None
    lacks: tuple[Path, ...] = ()
    unread: tuple[Path, ...] = ()

    def place(self, piece: Piece) -> Path:
        """Where a piece is, a file or a folder; where it belongs if it is not there."""
        found = self.found.get(piece)
        return found[0] if found else self.path / self.places[piece]

    def has(self, piece: Piece) -> bool:
        """Whether there is something that can be a piece."""
        return bool(self.found.get(piece))

    def choices(self, piece: Piece) -> Sequence[Path]:
        """What can be a piece, where that is more than one."""
        found = self.found.get(piece, ())
        return found if len(found) > 1 else ()

    def missing(self, wanted: Sequence[Piece] = PIECES) -> list[Path]:
        """Places of wanted pieces that are not there, relative to the folder."""
        places = self.places.items()
        absent = [place for piece, place in places if piece in wanted and not self.has(piece)]
        return [*self.lacks, *absent]

    def unusual(self) -> dict[Piece, Path]:
        """Pieces that are there under another name than the layout's, relative to the folder."""
        return {
            piece: found[0].relative_to(self.path)
            for piece, found in self.found.items()
            if len(found) == 1 and found[0].is_file() and found[0] != self.path / self.places[piece]
        }

    @property
    def manifest(self) -> Manifest | None:
        """What it was made from, if it was converted; see `read_manifest`."""
        return read_manifest(self.path) if (self.path / MANIFEST).is_file() else None

    @property
    def family(self) -> str:
        """Of which models it is, as far as it says; see `declared_family`.

        Raises:
            CheckpointError: a file that says it is damaged.
        """
        if has_two_backbones(self.path):
            return TWO_BACKBONES
        if self.config is None or not (self.config / CONFIG).is_file():
            return FAMILY
        return declared_family(read_settings(self.config / CONFIG, BackboneFile))

    @property
    def is_student(self) -> bool:
        """Whether its own backbone is said to be a few-step student."""
        if manifest := self.manifest:
            return "student" in manifest.made_from
        config = self.config and self.config / CONFIG
        name = read_json(config).get("_class_name") if config and config.is_file() else None
        return isinstance(name, str) and name.startswith(CAUSAL_CLASS)

    def declared(self) -> Mapping[str, Any]:
        """The backbone's sizes as far as the folder declares them; see `read_config`."""
        if manifest := self.manifest:
            return manifest.backbone.sizes()
        return read_config(self.config / CONFIG) if self.config else {}


# what a folder is in a layout; None where it is nothing in it
Layout = Callable[[Path], WanFolder | None]


def is_there(path: Path) -> bool:
    """Whether something is at a path, a link to a missing file too: reading it says which."""
    return path.exists() or path.is_symlink()


def those_there(folder: Path, places: Mapping[Piece, Path]) -> dict[Piece, Sequence[Path]]:
    """The pieces that are where they belong."""
    return {piece: (folder / place,) for piece, place in places.items() if is_there(folder / place)}
