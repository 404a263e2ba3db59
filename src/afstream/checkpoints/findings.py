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
from afstream.checkpoints.kinds import FAMILY, PIECES, Kind, Piece
from afstream.checkpoints.lora import Lora
from afstream.checkpoints.manifest import BACKBONE, Manifest
from afstream.checkpoints.names import PIECES_TENSOR
from afstream.checkpoints.stored import form_of
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.hub.catalogue import CATALOGUE, PARTS, STUDENTS, Published
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec

FOLDERS: tuple[Kind, ...] = ("Wan folder", "converted folder")
BACKBONES: tuple[Kind, ...] = ("student", "backbone weights")
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
# what generate takes as it is; a tokenizer must lie in a folder
DECODERS: tuple[Kind, ...] = ("Wan VAE", "tiny VAE")
MODELS: tuple[Kind, ...] = (*FOLDERS, "pocket model", "random weights")
GIVEN_ALONE: tuple[Kind, ...] = (*MODELS, *BACKBONES, *DECODERS, "text encoder")
PLAIN = (
    "a plain Wan2.1 makes no good video in few steps; a student does: afstream download NAME with"
    f" {', '.join(STUDENTS[:-1])} or {STUDENTS[-1]}"
)


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
        is_student: whether a folder's own backbone is said to be a few-step student.
        parts: of a folder, each a finding of its own.
        places: where a folder has its pieces, relative to it.
        fault: why generating refuses it; empty where it does not, or where its kind or family says.
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
    is_student: bool = False
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
        """Parameters by the dtype, or other form, in which they are stored."""
        counts: Counter[str] = Counter()
        added = [value for _, value in self.lora.tensors()] if self.lora else []
        own = [value for name, value in self.weights.items() if name != PIECES_TENSOR]
        for value in () if self.parts else (*own, *added):
            counts[form_of(value)] += value.numel()
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
        if not self.supported:
            return ()
        tokenizer: tuple[Piece, ...] = ("tokenizer",) if PIECES_TENSOR in self.weights else ()
        return (*PROVIDES[self.kind], *tokenizer) if self.kind in PROVIDES else self.of_parts

    @property
    def of_parts(self) -> tuple[Piece, ...]:
        """Pieces that a folder's parts provide, also where its backbone is of another family."""
        there = {piece for part in self.parts for piece in part.provides}
        return tuple(piece for piece in PIECES if piece in there)

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
    base = CATALOGUE["wan-14b" if size == "14B" else PARTS]
    names = {piece: f"{piece} ({place})" for piece, place in (places or {}).items()}
    return tuple(
        Missing(piece=names.get(piece, piece), where=_where(piece, base))
        for piece in PIECES
        if piece not in provided
    )


def _where(piece: Piece, base: Published) -> str:
    """A user's way to a piece."""
    option = " --backbone" if piece == "backbone" else ""
    return f"{base.repository} on Hugging Face (afstream download {base.name}{option})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What generating with several findings still needs, and what fits, a sentence each."""

    missing: tuple[Missing, ...]
    remarks: tuple[str, ...]


def judge(findings: Sequence[Finding]) -> Together:
    """See what several findings make together, as generate would take them."""
    taken = usable(findings)
    given = [one for one in taken if one.kind in BACKBONES]
    folders = [one for one in taken if one.kind in FOLDERS]
    texts = [one for one in taken if one.kind == "text encoder"]
    refused = [one for one in findings if not one.supported and not _is_usable(one, given)]
    base = base_of(findings)
    remarks = [
        *_too_many("models", folders),
        *_too_many("students", given),
        *_too_many("text encoders", texts),
        *(_fit(one, base) for one in findings if one.lora and not misfit_of(one, base)),
        *(_only_beside(one) for one in folders if not one.supported),
        *(f"{one.path} is not supported" for one in refused),
    ]
    if folders and not given and not any(one.is_student for one in folders):
        remarks.append(PLAIN)
    provided = {piece for one in taken for piece in one.provides or one.of_parts}
    missing = _lacking(provided, base.size if base else "")
    return Together(missing=missing, remarks=tuple(remarks))


def usable(findings: Sequence[Finding]) -> list[Finding]:
    """Those that generate takes: beside a student folders of Wan's other families, too."""
    students = [one for one in findings if one.kind in BACKBONES and one.supported]
    return [one for one in findings if _is_usable(one, students)]


def _is_usable(one: Finding, students: Sequence[Finding]) -> bool:
    if one.supported:
        return one.kind in GIVEN_ALONE
    return bool(one.kind in FOLDERS and students and one.of_parts)


def faults_of(findings: Sequence[Finding]) -> list[str]:
    """Why generating refuses what was recognised; a part that is given beside takes its place."""
    alone = (one for one in findings if one.kind in GIVEN_ALONE and one.kind not in FOLDERS)
    given = {piece for one in alone for piece in one.provides}
    parts = (part for one in findings for part in one.parts)
    unreplaced = (part for part in parts if not given.issuperset(PROVIDES.get(part.kind, ())))
    return [one.fault for one in (*findings, *unreplaced) if one.fault]


def _only_beside(folder: Finding) -> str:
    """What is taken of a folder of another family."""
    pieces = ", ".join(piece for piece in folder.of_parts if piece != "backbone")
    return f"of {folder.path}, which is {folder.family}, the {pieces} are taken: they are Wan2.1's"


def specs_of(findings: Sequence[Finding]) -> list[ModelSpec]:
    """What generate could be given of several findings: each model, with all that lies beside it.

    Of students, decoders and text encoders it takes one, so that there is a spec for each; nothing
    without a model.
    """
    students, decoders, texts, models = list[str](), list[str](), list[str](), list[str]()
    for one in findings:
        if one.kind in BACKBONES or one.is_backbone_alone:
            students.append(str(one.path))
        elif one.kind in DECODERS:
            decoders.append(str(one.path))
        elif one.kind == "text encoder":
            texts.append(str(one.path))
        elif one.kind in MODELS:
            models.append(str(one.path))
    loras = tuple(str(one.path) for one in findings if one.lora)
    return [
        ModelSpec(name=name, student=student, vae=vae, text_encoder_file=text, loras=loras)
        for name in models
        for student in students or [None]
        for vae in decoders or [None]
        for text in texts or [None]
    ]


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
