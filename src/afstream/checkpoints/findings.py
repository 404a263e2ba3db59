"""What files and folders were found to be, whether they fit together, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from afstream.checkpoints.files import Weights, shapes_of
from afstream.checkpoints.folders import PIECES, Piece
from afstream.checkpoints.kinds import FAMILY, Kind
from afstream.checkpoints.lora import Lora
from afstream.checkpoints.manifest import BACKBONE, Manifest
from afstream.checkpoints.quantised import scales_of
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec

FOLDERS = ("Wan folder", "converted folder")
BACKBONES = ("student", "backbone weights")
PROVIDES: dict[Kind, tuple[Piece, ...]] = {
    "pocket model": PIECES,
    "random weights": PIECES,
    "student": ("backbone",),
    "backbone weights": ("backbone",),
    "Wan VAE": ("VAE",),
    "tiny VAE": ("VAE",),
    "text encoder": ("text encoder",),
    "tokenizer folder": ("tokenizer",),
}
# where the published models are: a user's way to whatever is missing
REPOSITORIES = {"1.3B": "Wan-AI/Wan2.1-T2V-1.3B", "14B": "Wan-AI/Wan2.1-T2V-14B"}
# what generate takes as it is; a text encoder or a tokenizer must lie in a folder
DECODERS = ("Wan VAE", "tiny VAE")
MODELS = (*FOLDERS, "pocket model", "random weights")
GIVEN_ALONE = (*MODELS, *BACKBONES, *DECODERS)
STUDENTS = (
    "gdhe17/Self-Forcing, zhuhz22/Causal-Forcing, Efficient-Large-Model/LongLive-1.3B or"
    " KlingTeam/MemFlow on Hugging Face, or vivoCameraResearch/Anchor-Forcing on GitHub"
)
PLAIN = f"a plain Wan2.1 makes no good video in few steps; a student does: {STUDENTS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A piece that generating needs beside what was found, and where it comes from."""

    piece: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a file or a folder is.

    Attributes:
        family: of which models; empty where that means nothing.
        layout: who arranged or named it; empty where there is one way only.
        weights: what it holds, under Wan's names where it is a backbone; a folder's backbone.
        num_bytes: of the files of weights.
        entries: sets of weights that the file holds side by side.
        entry: the one that is taken.
        parts: of a folder, each a finding of its own.
        places: where a folder has its pieces, relative to it.
        fault: why generating refuses it, though its family is known; empty where it does not.
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
    fault: str = ""
    notes: tuple[str, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether afstream can use it."""
        return self.kind != "unknown" and self.family in ("", FAMILY) and not self.fault

    @property
    def is_backbone_alone(self) -> bool:
        """Whether it is a converted folder of nothing but a backbone, which is a student."""
        return self.manifest is not None and self.manifest.parts == (BACKBONE,)

    @property
    def size(self) -> str:
        """`1.3B` or `14B`, else how deep and wide; empty without a backbone or a base for it."""
        own = self.backbone
        if own is None:
            return next(iter(self.fits), "")
        known = [_short(name) for name, one in WAN_BACKBONES.items() if one == own]
        return known[0] if known else f"{own.num_layers} layers, {own.dim} wide"

    @property
    def fits(self) -> tuple[str, ...]:
        """Sizes of Wan2.1 that have every weight that a LoRA changes."""
        if not self.lora:
            return ()
        published = _published_shapes().items()
        return tuple(name for name, shapes in published if not self.lora.misfit(shapes))

    @property
    def dtypes(self) -> dict[str, int]:
        """Parameters by the dtype in which they are stored."""
        counts: Counter[str] = Counter()
        added = [value for _, value in self.lora.tensors()] if self.lora else []
        scales = set(scales_of(self.weights))
        own = [value for name, value in self.weights.items() if name not in scales]
        for value in () if self.parts else (*own, *added):
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
        return _lacking(self.provides, self.size, self.places) if self.supported else ()


def _short(name: str) -> str:
    """`wan-1.3b` as `1.3B`."""
    return name.removeprefix("wan-").upper()


@lru_cache
def _published_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the weights of the published backbones, by `1.3B` and `14B`."""
    with torch.device("meta"):
        return {
            _short(name): shapes_of(Backbone(config).state_dict())
            for name, config in WAN_BACKBONES.items()
        }


def _lacking(
    provided: Collection[str], size: str, places: Mapping[Piece, Path] | None = None
) -> tuple[Missing, ...]:
    """What a model of a size has beside provided pieces, with a folder's places for them."""
    where = f"{REPOSITORIES.get(size, REPOSITORIES['1.3B'])} on Hugging Face"
    names = {piece: f"{piece} ({place})" for piece, place in (places or {}).items()}
    return tuple(
        Missing(piece=names.get(piece, piece), where=where)
        for piece in PIECES
        if piece not in provided
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What generating with several findings still needs, and what fits, a sentence each."""

    missing: tuple[Missing, ...]
    remarks: tuple[str, ...]


def judge(findings: Sequence[Finding]) -> Together:
    """See what several findings make together, as generate would take them."""
    usable = [one for one in findings if one.kind in GIVEN_ALONE and one.supported]
    given = [one for one in usable if one.kind in BACKBONES]
    folders = [one for one in usable if one.kind in FOLDERS]
    base = base_of(findings)
    remarks = [
        *_too_many("models", folders),
        *_too_many("students", given),
        *(_fit(one, base) for one in findings if one.lora and not misfit_of(one, base)),
        *(f"{one.path} is not supported" for one in findings if not one.supported),
    ]
    if folders and not given and all(is_plain(one) for one in folders):
        remarks.append(PLAIN)
    provided = {piece for one in usable for piece in one.provides}
    missing = _lacking(provided, base.size if base else "")
    return Together(missing=missing, remarks=tuple(remarks))


def specs_of(findings: Sequence[Finding]) -> list[ModelSpec]:
    """What generate could be given of several findings: each model, with all that lies beside it.

    Of students and decoders it takes one, so that there is a spec for each; nothing without a
    model.
    """
    students, decoders, models = list[str](), list[str](), list[str]()
    for one in findings:
        if one.kind in BACKBONES or one.is_backbone_alone:
            students.append(str(one.path))
        elif one.kind in DECODERS:
            decoders.append(str(one.path))
        elif one.kind in MODELS:
            models.append(str(one.path))
    loras = tuple(str(one.path) for one in findings if one.lora)
    return [
        ModelSpec(name=name, student=student, vae=vae, loras=loras)
        for name in models
        for student in students or [None]
        for vae in decoders or [None]
    ]


def is_plain(folder: Finding) -> bool:
    """Whether the backbone of a folder is no student."""
    return folder.manifest is None or "student" not in folder.manifest.made_from


def _too_many(word: str, found: Sequence[Finding]) -> list[str]:
    names = " and ".join(str(one.path) for one in found)
    return [f"these are {len(found)} {word}, and generate takes one: {names}"] * (len(found) > 1)


def misfit_of(finding: Finding, base: Finding | None) -> str:
    """Why a LoRA cannot be added to a base; empty where it can, or where nothing is a LoRA."""
    if finding.lora is None or base is None:
        return ""
    return finding.lora.misfit(shapes_of(base.weights))


def base_of(findings: Sequence[Finding]) -> Finding | None:
    """What LoRAs would be added to: the first student, else the first folder's backbone."""
    usable = [one for one in findings if one.supported and one.weights]
    students = [one for one in usable if one.kind in BACKBONES]
    return next(iter([*students, *(one for one in usable if one.kind in FOLDERS)]), None)


def _fit(finding: Finding, base: Finding | None) -> str:
    """What a LoRA fits."""
    if base is None:
        return f"{finding.path} has nothing here to be added to"
    return f"LoRA {finding.path} fits {base.path}"
