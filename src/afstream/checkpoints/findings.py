"""What a file or a folder was found to be, and what generating needs beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from afstream.checkpoints.folders import PIECES, Piece
from afstream.checkpoints.lora import Lora
from afstream.checkpoints.manifest import Manifest
from afstream.checkpoints.wan_kinds import FAMILY
from afstream.checkpoints.weights import Weights, shapes_of
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.model.dit import Backbone

Kind = Literal[
    "Wan folder",
    "converted folder",
    "pocket model",
    "student",
    "backbone weights",
    "LoRA",
    "Wan VAE",
    "tiny VAE",
    "text encoder",
    "tokenizer folder",
    "unknown",
]

FOLDERS = ("Wan folder", "converted folder")
BACKBONES = ("student", "backbone weights")
PROVIDES: dict[Kind, tuple[Piece, ...]] = {
    "pocket model": PIECES,
    "student": ("backbone",),
    "backbone weights": ("backbone",),
    "Wan VAE": ("VAE",),
    "tiny VAE": ("VAE",),
    "text encoder": ("text encoder",),
    "tokenizer folder": ("tokenizer",),
}
# where the published models are: a user's way to whatever is missing
REPOSITORIES = {"1.3B": "Wan-AI/Wan2.1-T2V-1.3B", "14B": "Wan-AI/Wan2.1-T2V-14B"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that generating needs beside what was found.

    Attributes:
        piece: what.
        where: where it comes from.
    """

    piece: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a file or a folder is.

    Attributes:
        path: as it was given.
        kind: what it is.
        family: of which models; empty where that means nothing.
        layout: who arranged or named it; empty where there is one way only.
        weights: what it holds, under Wan's names where it is a backbone; a folder's backbone.
        num_bytes: of the files of weights.
        backbone: the sizes of its backbone.
        entries: sets of weights that the file holds side by side.
        entry: the one that is taken.
        lora: the LoRA that it is.
        parts: of a folder, each a finding of its own.
        places: where a folder has its pieces, relative to it.
        manifest: of a converted folder.
        notes: whatever else one must know.
    """

    path: Path
    kind: Kind
    family: str = ""
    layout: str = ""
    weights: Weights = field(default_factory=dict[str, Tensor])
    num_bytes: int = 0
    backbone: BackboneConfig | None = None
    entries: tuple[str, ...] = ()
    entry: str = ""
    lora: Lora | None = None
    parts: tuple[Finding, ...] = ()
    places: Mapping[Piece, Path] = field(default_factory=dict[Piece, Path])
    manifest: Manifest | None = None
    notes: tuple[str, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether afstream can use it."""
        return self.kind != "unknown" and self.family in ("", FAMILY)

    @property
    def size(self) -> str:
        """`1.3B` or `14B`, else how deep and wide; empty without a backbone or a base for it."""
        if self.backbone:
            return size_name(self.backbone)
        return next(iter(self.fits), "")

    @property
    def fits(self) -> tuple[str, ...]:
        """Sizes of Wan2.1 that have every weight that a LoRA changes."""
        sizes = published_shapes() if self.lora else {}
        return tuple(name for name in sizes if self.lora and not self.lora.misfit(sizes[name]))

    @property
    def dtypes(self) -> dict[str, int]:
        """Parameters by the dtype in which they are stored."""
        counts: Counter[str] = Counter()
        pairs = self.lora.pairs.values() if self.lora else ()
        halves = [half for pair in pairs for half in (pair.down, pair.up)]
        for value in () if self.parts else (*self.weights.values(), *halves):
            counts[str(value.dtype).removeprefix("torch.")] += value.numel()
        for part in self.parts:
            counts.update(part.dtypes)
        return dict(counts)

    @property
    def num_parameters(self) -> int:
        """Parameters of all its weights."""
        return sum(self.dtypes.values())

    @property
    def provides(self) -> tuple[Piece, ...]:
        """Pieces of a model that are here and can be used."""
        there = {piece for part in self.parts for piece in part.provides}
        pieces = PROVIDES.get(self.kind) or tuple(piece for piece in PIECES if piece in there)
        return pieces if self.supported else ()

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What generating needs beside it, a folder's pieces with the places where they belong."""
        return lacking(self.provides, self.size, self.places) if self.supported else ()


def size_name(config: BackboneConfig) -> str:
    """`1.3B` or `14B`, else how deep and wide a backbone is."""
    known = [short(name) for name, one in WAN_BACKBONES.items() if one == config]
    return known[0] if known else f"{config.num_layers} layers, {config.dim} wide"


def short(name: str) -> str:
    """`wan-1.3b` as `1.3B`."""
    return name.removeprefix("wan-").upper()


@lru_cache
def published_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the weights of the published backbones, by `1.3B` and `14B`."""
    with torch.device("meta"):
        return {
            short(name): shapes_of(Backbone(config).state_dict())
            for name, config in WAN_BACKBONES.items()
        }


def lacking(
    provided: Collection[str], size: str, places: Mapping[Piece, Path] | None = None
) -> tuple[Missing, ...]:
    """What a complete model has beside some pieces, and where it comes from.

    Args:
        provided: pieces that are there.
        size: of the backbone; any folder has the others.
        places: of pieces in a folder.
    """
    where = f"{REPOSITORIES.get(size, REPOSITORIES['1.3B'])} on Hugging Face"
    names = {piece: f"{piece} ({place})" for piece, place in (places or {}).items()}
    return tuple(
        Missing(piece=names.get(piece, piece), where=where)
        for piece in PIECES
        if piece not in provided
    )
