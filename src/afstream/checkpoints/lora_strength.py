"""How strong a LoRA is: everything that says so, in a file or beside it, read and compared.

A layer's pair counts alpha / rank, with rsLoRA alpha / sqrt(rank). Trainers say alpha as a tensor
or a number of each layer, in a text of the header, in settings (JSON or a dict) in the file, or in
PEFT's `adapter_config.json`. What says it is obeyed; what is not understood, or says something
else than another place, is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from afstream.bounded import parse_json
from afstream.errors import CheckpointError
from afstream.validation import show_name, show_value

ADAPTER_CONFIG = "adapter_config.json"
# PEFT's settings as diffusers writes them into a header, JSON
ADAPTER_TEXT = "lora_adapter_metadata"
# kohya's settings in a header; most do not speak of what the file holds
KOHYA = "ss_"
KOHYA_ARGS = "ss_network_args"
# of a header: what tells of the training, or what the file is called
SKIPPED = re.compile(r"ss_(?!network_)|sshs_|modelspec\.")

ALPHA = ("lora_alpha", "alpha", "network_alpha", "ss_network_alpha")
RANK = ("r", "rank", "lora_rank", "network_dim", "network_rank", "ss_network_dim")
RSLORA = ("use_rslora", "rslora", "rs_lora", "use_rs_lora")
DORA = ("use_dora", "dora", "dora_wd", "weight_decompose")
PATTERNS = ("alpha_pattern", "rank_pattern")
# words of these that mean nothing else, wherever they stand
SURE = ("lora_alpha", "lora_rank", "use_rslora", "use_dora", *PATTERNS)
# settings under such names are a LoRA's
OF_LORA = re.compile(r"lora|adapter|peft|network")
# of another model, trained beside this one
OF_OTHERS = re.compile(r"critic|fake|discriminator|optim|sched")
# what else may speak of strength, and what only sounds so
SPEAKS = re.compile(
    r"(?:^|_)(?:alphas?|scales?|scaling|ranks?|dora|rslora|strength|multiplier|magnitude)(?:_|$)"
)
SOUNDS = re.compile(r"dropout|guidance|norm|loss|grad|lr|learning|noise|sigma|shift|image|text")
# PEFT's settings under which the weights mean something else, with values under which they do not
UNUSABLE: dict[str, tuple[object, ...]] = {
    "fan_in_fan_out": (),
    "use_qalora": (),
    "use_bdlora": (),
    "layer_replication": (),
    "target_parameters": (),
    "arrow_config": (),
    "kasa_config": (),
    "monteclora_config": (),
    "alora_invocation_tokens": (),
    "init_lora_weights": (True, "true", "True", "gaussian", "orthogonal", "eva"),
    "peft_type": ("LORA",),
}
NOTHING = (None, False, "", "none", "None", "null", "false", "False", "Dynamic")
YES = (True, 1, "1", "true", "True")
NO = (*NOTHING, 0, "0")

MAX_SETTINGS = 100_000
# a layer's name is held against every pattern before one fits
MAX_MATCHES = 500_000
# a pattern with more of these, or with one behind a group, may take for ever
MAX_REPEATS = 2
REPEATS = re.compile(r"[*+?{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")
# bfloat16 tells alphas apart to this
ALPHA_TOLERANCE = 1 / 256


class Layer(NamedTuple):
    """A layer with a pair of matrices.

    Attributes:
        spelled: its name in the file, without prefixes.
        rank: of its matrices.
        alpha: what the file says of this layer alone.
    """

    spelled: str
    rank: int
    alpha: float | None = None


class Strength(NamedTuple):
    """How much of a pair of matrices is added at scale 1, and what says so."""

    alpha: float
    rank: int
    is_rslora: bool
    source: str

    @property
    def factor(self) -> float:
        """alpha / rank, with rsLoRA alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.is_rslora else self.rank)


@dataclass(slots=True, kw_only=True)
class Settings:
    """What one place says of all layers.

    Attributes:
        place: the place, in words.
        alpha: with the name under which it stands there; likewise the others.
        is_kohya: whether only kohya's trainer says it, which leaves alpha to the layers.
        patterns: alphas and ranks of some layers, by patterns of their names.
    """

    place: str
    alpha: tuple[str, float] | None = None
    rank: tuple[str, int] | None = None
    rslora: tuple[str, bool] | None = None
    is_kohya: bool = False
    patterns: dict[str, dict[re.Pattern[str], float]] = field(
        default_factory=dict[str, dict[re.Pattern[str], float]]
    )

    def told(self, what: str, layer: str) -> tuple[str, float] | None:
        """What it says of a layer, `alpha_pattern` or `rank_pattern`, and where."""
        for pattern, value in self.patterns.get(what, {}).items():
            if pattern.match(layer):
                return f"{what} of {self.place}", value
        found = self.alpha if what == "alpha_pattern" else self.rank
        return found and (f"{found[0]} of {self.place}", found[1])


def read_settings(
    content: Mapping[Any, Any], place: str, path: Path, *, is_lora: bool = True
) -> list[Settings]:
    """Everything in settings that speaks of a LoRA's strength, those of settings in them too.

    Args:
        content: settings by name; tensors, except of an alpha, are passed over.
        place: where they stand, in words.
        path: of the file, for errors.
        is_lora: whether they are a LoRA's own, so that `alpha` means its alpha.

    Raises:
        CheckpointError: something speaks of strength and is not understood, or its value is not
            allowed; or the matrices are those of another kind of adapter.
    """
    found = dict[str, Settings]()
    for names, value, own in _flat(content, path, is_lora=is_lora):
        *groups, word = names
        said_by = f"{show_name('.'.join(groups))} in {place}" if groups else place
        settings = found.setdefault(said_by, Settings(place=said_by))
        _take(settings, word, value, path, is_lora=own, in_args=KOHYA_ARGS in groups)
    return [
        one for one in found.values() if one.alpha or one.rank or one.rslora or one.patterns
    ]


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
    rslora = [(f"{one.rslora[0]} of {one.place}", one.rslora[1]) for one in settings if one.rslora]
    is_rslora = bool(_agreed(rslora, path, "rsLoRA")[1]) if rslora else False
    return {
        name: _strength(name, layer, settings, path, otherwise, is_rslora=is_rslora)
        for name, layer in layers.items()
    }


def _strength(
    name: str,
    layer: Layer,
    settings: Sequence[Settings],
    path: Path,
    otherwise: float | None,
    *,
    is_rslora: bool,
) -> Strength:
    ranks = [("its matrices", float(layer.rank))]
    ranks += [told for one in settings if (told := one.told("rank_pattern", layer.spelled))]
    _agreed(ranks, path, f"the rank of {show_name(name)}")
    alphas = [] if layer.alpha is None else [("its own alpha", layer.alpha)]
    told = [(one, one.told("alpha_pattern", layer.spelled)) for one in settings]
    alphas += [said for one, said in told if said and not one.is_kohya]
    trainer = [said for one, said in told if said and one.is_kohya]
    if alphas:
        source, alpha = _agreed([*alphas, *trainer], path, f"the alpha of {show_name(name)}")
        return Strength(alpha, layer.rank, is_rslora, source)
    if trainer and not _close(trainer[0][1], layer.rank):
        raise CheckpointError(
            f"{path}: {trainer[0][0]} is {trainer[0][1]:g}, but {show_name(name)} of rank"
            f" {layer.rank} has no alpha of its own, so it may be merged into the matrices"
            " already; give the file as its trainer wrote it"
        )
    incomplete = [one for one in settings if one.patterns or one.rslora]
    incomplete += [one for one in settings if one.rank and one.rank[0] == "r"]
    if otherwise is None and incomplete and not trainer:
        raise CheckpointError(
            f"{path}: nothing says the alpha of {show_name(name)}, though"
            f" {incomplete[0].place} has a LoRA's settings; give a LoRA with its lora_alpha"
        )
    if otherwise is not None:
        return Strength(otherwise, layer.rank, is_rslora, "the training")
    return Strength(float(layer.rank), layer.rank, is_rslora, "")


def _agreed(said: Sequence[tuple[str, float]], path: Path, what: str) -> tuple[str, float]:
    """The first of several that must say the same."""
    first, *others = said
    for other in others:
        if not _close(first[1], other[1]):
            raise CheckpointError(
                f"{path}: {what} is {_shown(first[1])} by {first[0]}, but {_shown(other[1])} by"
                f" {other[0]}; give a LoRA that says one thing"
            )
    return first


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ALPHA_TOLERANCE)


def _shown(value: float) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else f"{value:g}"


def _check_patterns(
    layers: Mapping[str, Layer], settings: Sequence[Settings], path: Path
) -> None:
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
                    key = pattern.pattern.removeprefix(r"(?:.*\.)?(?:").removesuffix(r")\Z")
                    raise CheckpointError(
                        f"{path}: {what} of {one.place} speaks of {show_name(key)}, which"
                        " is none of its layers as they are named in the file; give a LoRA whose"
                        " settings are its own"
                    )


def _flat(
    content: Mapping[Any, Any], path: Path, *, is_lora: bool
) -> Iterator[tuple[list[str], Any, bool]]:
    """Settings one by one: the names that lead to each, and whether they are a LoRA's own."""
    seen = set[int]()
    rest: list[tuple[list[str], Mapping[Any, Any], bool]] = [([], content, is_lora)]
    for groups, settings, own in rest:
        if id(settings) in seen or len(seen) > MAX_SETTINGS:
            continue
        seen.add(id(settings))
        for name, value in settings.items():
            group, _, word = str(name).rpartition(".")
            names = [*groups, *filter(None, [group]), word]
            if SKIPPED.match(str(name)):
                continue
            inner = value
            if isinstance(value, str) and (value.lstrip()[:1] == "{" or name == ADAPTER_TEXT):
                inner = _json(str(name), value, path)
            if not isinstance(inner, Mapping) or word in PATTERNS:
                yield names, inner, own
            elif not OF_OTHERS.search(str(name)):
                rest.append((names, inner, bool((own and groups) or OF_LORA.search(str(name)))))


def _json(name: str, text: str, path: Path) -> Any:  # noqa: ANN401  JSON is anything
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if name == ADAPTER_TEXT and not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: {ADAPTER_TEXT} is {show_value(text)}; it must be JSON, settings by name"
        )
    return text if found is None else found


def _take(
    settings: Settings, word: str, value: Any, path: Path, *, is_lora: bool, in_args: bool
) -> None:  # noqa: ANN401
    """Take what one setting says."""
    where = f"{show_name(word)} of {settings.place}"
    if isinstance(value, Tensor) and word not in ALPHA:
        return
    if in_args and word not in (*DORA, *RSLORA):
        return
    if not (is_lora or word in SURE or in_args):
        return
    if word in PATTERNS:
        settings.patterns |= _patterns(word, value, where, path)
    elif word in DORA:
        if _flag(value, where, path):
            raise CheckpointError(
                f"{path} is a DoRA, by {where}, which cannot be merged; give a plain LoRA"
            )
    elif word in RSLORA:
        settings.rslora = (word, _flag(value, where, path)) if value is not None else None
    elif word in ALPHA and not _is_nothing(value):
        settings.alpha = word, number(value, path, word)
        settings.is_kohya = word.startswith(KOHYA)
    elif word in RANK and not _is_nothing(value):
        rank = number(value, path, word, what="rank")
        if rank < 1 or rank != int(rank):
            raise CheckpointError(f"{path}: {where} is {rank:g}; a LoRA's rank is 1 or more")
        settings.rank = word, int(rank)
    elif word in UNUSABLE:
        if not _is_nothing(value) and value not in ([], {}, *UNUSABLE[word]):
            raise CheckpointError(
                f"{path}: {where} is {show_value(value)}, which cannot be merged; give a plain LoRA"
            )
    elif _speaks(word) and not _is_nothing(value) and value not in ([], {}):
        raise CheckpointError(
            f"{path}: {where} is {show_value(value)}, which may speak of the LoRA's strength and"
            " is not known; give a LoRA that says its lora_alpha"
        )


def _speaks(word: str) -> bool:
    sounds = word.startswith(KOHYA) or SOUNDS.search(word)
    return word not in (*ALPHA, *RANK) and not sounds and bool(SPEAKS.search(word))


def _is_nothing(value: object) -> bool:
    if isinstance(value, bool):
        return not value
    return not isinstance(value, (Tensor, int, float, list, dict)) and value in NOTHING


def _flag(value: Any, where: str, path: Path) -> bool:  # noqa: ANN401  whatever a file holds
    if not isinstance(value, (list, dict, Tensor)):
        if value in YES:
            return True
        if value in NO:
            return False
    raise CheckpointError(f"{path}: {where} is {show_value(value)}; it must be true or false")


def _patterns(
    word: str, value: Any, where: str, path: Path
) -> dict[str, dict[re.Pattern[str], float]]:  # noqa: ANN401
    """Numbers by patterns of layers' names, which PEFT holds against the name or its end."""
    if not value:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{path}: {where} is {show_value(value)}; it must be numbers by names of layers"
        )
    found = dict[re.Pattern[str], float]()
    entries: Iterable[tuple[Any, Any]] = value.items()
    for key, said in entries:
        try:
            if len(REPEATS.findall(str(key))) > MAX_REPEATS or REPEATED_GROUP.search(str(key)):
                raise ValueError
            pattern = re.compile(rf"(?:.*\.)?(?:{key})\Z")
        except (ValueError, re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: {where} names {show_name(key)}, which is no pattern of layers that is"
                " understood; give another LoRA"
            ) from error
        found[pattern] = number(said, path, f"{word} {show_name(key)}")
    return {word: found}


def number(value: Any, path: Path, name: str, *, what: str = "alpha") -> float:  # noqa: ANN401
    """An alpha or a rank, as a number, a text or a tensor of one value.

    Raises:
        CheckpointError: it is no finite number.
    """
    try:
        found = float(value)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        shown = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else show_value(value)
        raise CheckpointError(
            f"{path}: the {what} of {show_name(name)} is {shown}; it must be a number, so give"
            " another LoRA"
        )
    return found
