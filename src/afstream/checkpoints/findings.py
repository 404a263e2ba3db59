"""What a file or a folder was found to be, and what generating needs beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from afstream.checkpoints.folders import PIECES, Piece
from afstream.checkpoints.lora import AlphaFrom
from afstream.checkpoints.manifest import Manifest
from afstream.checkpoints.wan_kinds import FAMILY
from afstream.checkpoints.weights import Weights
from afstream.config import WAN_BACKBONES, BackboneConfig

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
class LoraFinding:
    """What a LoRA changes.

    Attributes:
        ranks: all that occur.
        alphas: likewise.
        alpha_from: where the alphas come from: the layers, the file, or the rank.
        layers: the shape of each weight that it changes, by its name without `.weight`.
        fits: sizes of Wan2.1 that have all of them.
    """

    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    alpha_from: AlphaFrom
    layers: Mapping[str, tuple[int, ...]]
    fits: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a file or a folder is.

    Attributes:
        path: as it was given.
        kind: what it is.
        family: of which models; empty where that means nothing.
        backbone: the sizes of its backbone.
        shapes: of the backbone's weights, by their names in Wan.
        layout: who arranged or named it; empty where there is one way only.
        dtypes: parameters by the dtype in which they are stored.
        num_bytes: of the files of weights.
        entries: sets of weights that the file holds side by side.
        entry: the one that is taken.
        lora: what it changes, when it is a LoRA.
        parts: of a folder, each a finding of its own.
        places: where a folder has its pieces, relative to it.
        manifest: of a converted folder.
        notes: whatever else one must know.
    """

    path: Path
    kind: Kind
    family: str = ""
    backbone: BackboneConfig | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, "tuple[int, ...]"])
    layout: str = ""
    dtypes: Mapping[str, int] = field(default_factory=dict[str, int])
    num_bytes: int = 0
    entries: tuple[str, ...] = ()
    entry: str = ""
    lora: LoraFinding | None = None
    parts: tuple[Finding, ...] = ()
    places: Mapping[Piece, Path] = field(default_factory=dict[Piece, Path])
    manifest: Manifest | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """`1.3B` or `14B`, else how deep and wide; empty without a backbone or a base for it."""
        if self.lora and self.lora.fits:
            return self.lora.fits[0]
        return size_name(self.backbone) if self.backbone else ""

    @property
    def num_parameters(self) -> int:
        """Parameters of all its weights."""
        return sum(self.dtypes.values())

    @property
    def supported(self) -> bool:
        """Whether afstream can use it."""
        return self.kind != "unknown" and self.family in ("", FAMILY)

    @property
    def provides(self) -> tuple[Piece, ...]:
        """Pieces of a model that are here and can be used."""
        if not self.supported:
            return ()
        there = {piece for part in self.parts for piece in part.provides}
        return PROVIDES.get(self.kind) or tuple(piece for piece in PIECES if piece in there)

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


def weight_shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    return {name: tuple(value.shape) for name, value in weights.items()}
