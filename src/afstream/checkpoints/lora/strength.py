"""How strong a LoRA is: what its layers and its settings say, compared.

A layer's pair counts alpha / rank, with rsLoRA alpha / sqrt(rank). What says them is obeyed; where
two places say different things, the LoRA is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from afstream.checkpoints.lora.settings import Settings
from afstream.checkpoints.lora.values import PATTERN_END, PATTERN_START, Said
from afstream.errors import CheckpointError
from afstream.validation import show_name

WHOLE = "both matrices are whole, so no alpha counts"
OWN = "the layer's own alpha"
# a layer's name is held against every pattern before one fits
MAX_MATCHES = 500_000
# bfloat16 tells alphas apart to this
ALPHA_TOLERANCE = 1 / 256


class Layer(NamedTuple):
    """A layer with a pair of matrices.

    Attributes:
        spelled: its name in the file, without prefixes.
        rank: of its matrices; None for a LoKr of whole ones, in which alpha counts only in PEFT.
        alpha: what the file says of this layer alone.
    """

    spelled: str
    rank: int | None
    alpha: float | None = None


class Strength(NamedTuple):
    """How much of a pair of matrices is added at scale 1, and what says so."""

    alpha: float
    rank: int
    is_rslora: bool
    source: str

    @property
    def factor(self) -> float:
        """Alpha / rank, with rsLoRA alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.is_rslora else self.rank)

    def describe(self) -> str:
        """The factor, how it comes about, and where alpha was read."""
        source = self.source or "nothing says alpha, so it is the rank"
        root = f"sqrt({self.rank}), rsLoRA" if self.is_rslora else f"rank {self.rank}"
        return f"{self.factor:g} = alpha {self.alpha:g} / {root} ({source})"


def resolve(
    layers: Mapping[str, Layer],
    settings: Sequence[Settings],
    path: Path,
    *,
    otherwise: float | None = None,
) -> dict[str, Strength]:
    """The strength of each layer; `otherwise` is alpha where nothing says one, else the rank.

    Raises:
        CheckpointError: two places say different things; or settings are incomplete, or name
            layers that are not there.
    """
    _check_patterns(layers, settings, path)
    flags = [said for one in settings for said in one.is_rslora]
    is_rslora = bool(flags and _agreed(flags, path, "rsLoRA").value)
    found = dict[str, Strength]()
    for name, layer in layers.items():
        what = show_name(name.removesuffix(".weight"))
        ranks = [said for one in settings for said in one.ranks_of(layer.spelled)]
        said = [] if layer.rank is None else [Said("its matrices", layer.rank)]
        # LyCORIS leaves the rank of whole matrices out; PEFT divides by it all the same
        if not said and not (ranks and any(one.is_peft for one in settings)):
            found[name] = Strength(1.0, 1, False, WHOLE)
            continue
        rank = int(_agreed([*said, *ranks], path, f"the rank of {what}").value)
        if rank < 1:
            raise CheckpointError(f"{path}: the rank of {what} is {rank}; give another LoRA")
        source, alpha = _alpha(what, layer, rank, settings, path, otherwise)
        found[name] = Strength(alpha, rank, is_rslora, source)
    return found


def _alpha(
    what: str,
    layer: Layer,
    rank: int,
    settings: Sequence[Settings],
    path: Path,
    otherwise: float | None,
) -> Said:
    """The alpha of a layer, and what says it; nothing where it is the rank."""
    said = [] if layer.alpha is None else [Said(OWN, layer.alpha)]
    said += [one for place in settings for one in place.alphas_of(layer.spelled)]
    trainer = [one for place in settings for one in place.trainer_alphas]
    if said:
        found = _agreed([*said, *trainer], path, f"the alpha of {what}", tolerance=ALPHA_TOLERANCE)
        if found.value == 0:
            raise CheckpointError(
                f"{path}: the alpha of {what} is 0 by {found.where}, so it adds nothing; give"
                " another LoRA"
            )
        return found
    for one in trainer:
        # such a file is what converters make, which merge alpha into the matrices and keep this
        if not math.isclose(one.value, rank, rel_tol=ALPHA_TOLERANCE):
            raise CheckpointError(
                f"{path}: {one.where} is {one.value:g}, but {what} of rank {rank} has no"
                " alpha of its own, so it may be merged into the matrices already; give the file"
                " as its trainer wrote it"
            )
    if otherwise is not None:
        return Said("as it was trained", otherwise)
    for place in settings:
        if not trainer and (place.is_peft or any(one.value for one in place.is_rslora)):
            raise CheckpointError(
                f"{path}: nothing says the alpha of {what}, though {place.place} has a LoRA's"
                " settings; give a LoRA with its lora_alpha"
            )
    return Said("", float(rank))


def _agreed(said: Sequence[Said], path: Path, what: str, *, tolerance: float = 0.0) -> Said:
    """The first of several that must say the same."""
    for one in said:
        if not math.isclose(said[0].value, one.value, rel_tol=tolerance):
            raise CheckpointError(
                f"{path}: {what} is {_shown(said[0])} by {said[0].where}, but {_shown(one)} by"
                f" {one.where}; give a LoRA that says one thing"
            )
    return said[0]


def _shown(said: Said) -> str:
    return ("off", "on")[said.value] if isinstance(said.value, bool) else f"{said.value:g}"


def _check_patterns(layers: Mapping[str, Layer], settings: Sequence[Settings], path: Path) -> None:
    spelled = {layer.spelled for layer in layers.values()}
    for one in settings:
        for what, patterns in one.patterns.items():
            if len(spelled) * len(patterns) > MAX_MATCHES:
                raise CheckpointError(
                    f"{path}: {what} of {one.place} names {len(patterns)} patterns for"
                    f" {len(spelled)} layers, which is too many; give another LoRA"
                )
            for pattern in patterns:
                if not any(map(pattern.match, spelled)):
                    key = pattern.pattern.removeprefix(PATTERN_START).removesuffix(PATTERN_END)
                    raise CheckpointError(
                        f"{path}: {what} of {one.place} speaks of {show_name(key)}, which"
                        " is none of its layers as they are named in the file; give a LoRA whose"
                        " settings are its own"
                    )
