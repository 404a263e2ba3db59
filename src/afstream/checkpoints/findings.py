"""What files and folders were found to be, and whether they make a model together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from afstream.checkpoints.families import FAMILY
from afstream.checkpoints.lora import AlphaFrom, check_layers
from afstream.checkpoints.manifest import Manifest
from afstream.checkpoints.weights import Weights
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.errors import CheckpointError

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
Piece = Literal["backbone", "text encoder", "tokenizer", "VAE"]

PIECES: tuple[Piece, ...] = ("backbone", "text encoder", "tokenizer", "VAE")
FOLDERS = ("Wan folder", "converted folder")
BACKBONES = ("student", "backbone weights")
# what generate takes as it is; a text encoder or a tokenizer must lie in a folder
GIVEN_ALONE = (*FOLDERS, *BACKBONES, "pocket model", "Wan VAE", "tiny VAE")

# where the published models are: a user's way to whatever is missing
REPOSITORIES = {"1.3B": "Wan-AI/Wan2.1-T2V-1.3B", "14B": "Wan-AI/Wan2.1-T2V-14B"}
STUDENTS = (
    "gdhe17/Self-Forcing, zhuhz22/Causal-Forcing, Efficient-Large-Model/LongLive-1.3B or"
    " KlingTeam/MemFlow on Hugging Face, or vivoCameraResearch/Anchor-Forcing on GitHub"
)
PLAIN = f"a plain Wan2.1 makes no good video in few steps; a student does: {STUDENTS}"


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
        alpha_from: what says them: its layers, the file, or nothing, and then it is the rank.
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
        size: `1.3B` or `14B`, else how deep and wide; empty without a backbone.
        backbone: the sizes of its backbone.
        shapes: of the backbone's weights, by their names in Wan.
        layout: who arranged or named it; empty where there is one way only.
        dtypes: parameters by the dtype in which they lie.
        num_bytes: of the files of weights.
        entries: sets of weights that the file holds side by side.
        entry: the one that is taken.
        lora: what it changes, when it is a LoRA.
        parts: of a folder, each a finding of its own.
        manifest: of a converted folder.
        provides: pieces of a model that are here.
        missing: what generating needs beside it.
        notes: whatever else one must know.
    """

    path: Path
    kind: Kind
    family: str = ""
    size: str = ""
    backbone: BackboneConfig | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, "tuple[int, ...]"])
    layout: str = ""
    dtypes: Mapping[str, int] = field(default_factory=dict[str, int])
    num_bytes: int = 0
    entries: tuple[str, ...] = ()
    entry: str = ""
    lora: LoraFinding | None = None
    parts: tuple[Finding, ...] = ()
    manifest: Manifest | None = None
    provides: tuple[Piece, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        """Of all its weights."""
        return sum(self.dtypes.values())

    @property
    def supported(self) -> bool:
        """Whether afstream can use it."""
        return self.kind != "unknown" and self.family in ("", FAMILY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What several findings make of each other.

    Attributes:
        missing: what generating with all of them still needs.
        remarks: what fits and what does not, a sentence each.
    """

    missing: tuple[Missing, ...]
    remarks: tuple[str, ...]


def size_name(config: BackboneConfig) -> str:
    """`1.3B` or `14B`, else how deep and wide a backbone is."""
    for name, known in WAN_BACKBONES.items():
        if config == known:
            return short(name)
    return f"{config.num_layers} layers, {config.dim} wide"


def short(name: str) -> str:
    """`wan-1.3b` as `1.3B`."""
    return name.removeprefix("wan-").upper()


def lacking(
    provided: Iterable[str], size: str = "", names: Mapping[Piece, str] | None = None
) -> tuple[Missing, ...]:
    """What a complete model has beside some pieces, and where it comes from.

    Args:
        provided: pieces that are there.
        size: of the backbone; any folder has the others.
        names: what to call the pieces; their own names unless given.
    """
    there = set(provided)
    where = f"{REPOSITORIES.get(size, REPOSITORIES['1.3B'])} on Hugging Face"
    return tuple(
        Missing(piece=(names or {}).get(piece, piece), where=where)
        for piece in PIECES
        if piece not in there
    )


def weight_shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def judge(findings: Sequence[Finding]) -> Together:
    """See what several findings make together, as generate would take them."""
    usable = [one for one in findings if one.kind in GIVEN_ALONE and one.supported]
    given = [one for one in usable if one.kind in BACKBONES]
    folders = [one for one in usable if one.kind in FOLDERS]
    base = next((one for one in (*given, *folders) if one.shapes), None)
    remarks = [
        *_too_many("models", folders),
        *_too_many("students", given),
        *_text_remarks(given, folders),
        *(_fit(one, base) for one in findings if one.lora),
        *(f"{one.path} is not supported" for one in findings if not one.supported),
    ]
    if folders and not given and not any(_has_student(one) for one in folders):
        remarks.append(PLAIN)
    provided = {piece for one in usable for piece in one.provides}
    missing = lacking(provided, base.size if base else "")
    return Together(missing=missing, remarks=tuple(remarks))


def _has_student(folder: Finding) -> bool:
    return folder.manifest is not None and "student" in folder.manifest.made_from


def _too_many(word: str, found: Sequence[Finding]) -> list[str]:
    names = " and ".join(str(one.path) for one in found)
    return [f"these are {len(found)} {word}, and generate takes one: {names}"] * (len(found) > 1)


def _text_remarks(given: Sequence[Finding], folders: Sequence[Finding]) -> list[str]:
    """Students that cannot read what a folder's text encoder writes."""
    return [
        f"{one.path} reads text embeddings of {one.backbone.text_dim} values, {folder.path} is made"
        f" for {folder.backbone.text_dim}: they do not fit"
        for one in given
        for folder in folders
        if one.backbone and folder.backbone and one.backbone.text_dim != folder.backbone.text_dim
    ]


def _fit(finding: Finding, base: Finding | None) -> str:
    """Whether a LoRA fits what it would be added to."""
    lora = finding.lora
    if lora is None or base is None:
        return f"{finding.path} has nothing here to be added to"
    try:
        check_layers(finding.path, lora.layers, base.shapes)
    except CheckpointError as error:
        return f"{error} (here {base.path})"
    return f"LoRA {finding.path} fits {base.path}"
