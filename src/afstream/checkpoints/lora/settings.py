"""Settings of a LoRA, in its file or beside it: everything there that speaks of its strength.

Trainers write them as texts in the header, as JSON or a dict in the file, or as PEFT's
`adapter_config.json`. What speaks of strength and is not understood is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from afstream.bounded import parse_json
from afstream.checkpoints.lora.values import Said, flag, is_nothing, number, patterns
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
# PEFT's own word
PEFT_RANK = "r"
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
    "peft_type": ("LORA", "LOKR", "LOHA"),
}
MAX_SETTINGS = 100_000


class Entry(NamedTuple):
    """One setting.

    Attributes:
        groups: names that lead to it.
        is_lora: whether it stands among a LoRA's own, so that `alpha` means its alpha.
    """

    groups: list[str]
    word: str
    value: Any
    is_lora: bool


@dataclass(slots=True, kw_only=True)
class Settings:
    """What one place says of all layers.

    Attributes:
        place: in words.
        alphas: without those that only kohya's trainer says, which leaves alpha to the layers.
        trainer_alphas: those.
        ranks: likewise of all layers.
        is_rslora: 1 or 0, where it says so.
        is_dora: likewise.
        is_peft: whether it has PEFT's settings, of which alpha is one.
        patterns: `alpha_pattern` and `rank_pattern`, numbers by patterns of layers' names.
    """

    place: str
    alphas: list[Said] = field(default_factory=list[Said])
    trainer_alphas: list[Said] = field(default_factory=list[Said])
    ranks: list[Said] = field(default_factory=list[Said])
    is_rslora: list[Said] = field(default_factory=list[Said])
    is_dora: list[Said] = field(default_factory=list[Said])
    is_peft: bool = False
    patterns: dict[str, dict[re.Pattern[str], float]] = field(
        default_factory=dict[str, dict[re.Pattern[str], float]]
    )

    def alphas_of(self, layer: str) -> list[Said]:
        """What it says of the alpha of a layer."""
        return self._by_pattern("alpha_pattern", layer) or self.alphas

    def ranks_of(self, layer: str) -> list[Said]:
        """What it says of the rank of a layer."""
        return self._by_pattern("rank_pattern", layer) or self.ranks

    def _by_pattern(self, word: str, layer: str) -> list[Said]:
        for pattern, value in self.patterns.get(word, {}).items():
            if pattern.match(layer):
                return [Said(f"{word} of {self.place}", value)]
        return []


def read_settings(content: Mapping[Any, Any], place: str, path: Path) -> list[Settings]:
    """Everything in a LoRA's settings that speaks of its strength, and in settings among them.

    Args:
        content: settings by name; tensors, except of an alpha, are passed over.
        place: where they stand, in words.
        path: of the file, for errors.

    Raises:
        CheckpointError: something speaks of strength and is not understood, or its value is not
            allowed; or the matrices are those of another kind of adapter.
    """
    found = dict[str, Settings]()
    for entry in _flat(content, path):
        groups = ".".join(entry.groups)
        said_by = f"{show_name(groups)} in {place}" if groups else place
        if _counts(entry):
            _take(found.setdefault(said_by, Settings(place=said_by)), entry, path)
    return list(found.values())


def _flat(content: Mapping[Any, Any], path: Path) -> Iterator[Entry]:
    """Settings one by one, those of settings among them behind the others."""
    seen = set[int]()
    rest: list[tuple[list[str], Mapping[Any, Any], bool]] = [([], content, True)]
    for groups, settings, is_lora in rest:
        if id(settings) in seen or len(seen) > MAX_SETTINGS:
            continue
        seen.add(id(settings))
        for key, value in settings.items():
            name = str(key)
            if SKIPPED.match(name):
                continue
            group, _, word = name.rpartition(".")
            within = [*groups, *filter(None, [group])]
            inner = _json(name, value, path) if isinstance(value, str) else value
            if not isinstance(inner, Mapping) or word in PATTERNS:
                yield Entry(within, word, inner, is_lora)
            elif not OF_OTHERS.search(name):
                # what a LoRA's settings hold is its own; of the file's, what is called so
                is_own = bool((is_lora and groups) or OF_LORA.search(name))
                rest.append(([*within, word], inner, is_own))


def _json(name: str, text: str, path: Path) -> Any:  # noqa: ANN401  JSON is anything
    """What a text of JSON holds; other texts as they are."""
    if name != ADAPTER_TEXT and text.lstrip()[:1] != "{":
        return text
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if name == ADAPTER_TEXT and not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: {ADAPTER_TEXT} is {show_value(text)}; it must be JSON, settings by name"
        )
    return text if found is None else found


def _counts(entry: Entry) -> bool:
    """Whether a setting may speak of the LoRA's strength."""
    if isinstance(entry.value, Tensor) and entry.word not in ALPHA:
        return False
    if KOHYA_ARGS in entry.groups:
        return entry.word in (*DORA, *RSLORA)
    return entry.is_lora or entry.word in SURE


def _take(settings: Settings, entry: Entry, path: Path) -> None:
    """Take what one setting says."""
    word, value = entry.word, entry.value
    where = f"{show_name(word)} of {settings.place}"
    is_empty = is_nothing(value)
    if word in PATTERNS:
        if word in settings.patterns:
            raise CheckpointError(f"{path}: {where} is said twice; give another LoRA")
        settings.patterns[word] = patterns(value, word, where, path)
        settings.is_peft = True
    elif word in (*DORA, *RSLORA):
        is_on = value is not None and flag(value, where, path)
        (settings.is_rslora if word in RSLORA else settings.is_dora).append(Said(where, is_on))
    elif is_empty:
        return
    elif word in ALPHA:
        said = settings.trainer_alphas if word.startswith(KOHYA) else settings.alphas
        said.append(Said(where, number(value, path, word)))
    elif word in RANK:
        settings.ranks.append(Said(where, number(value, path, word, what="rank")))
        settings.is_peft |= word == PEFT_RANK
    elif word in UNUSABLE:
        if value not in UNUSABLE[word]:
            raise CheckpointError(
                f"{path}: {where} is {show_value(value)}, which cannot be merged; give a plain LoRA"
            )
    elif _speaks(word):
        raise CheckpointError(
            f"{path}: {where} is {show_value(value)}, which may speak of the LoRA's strength and"
            " is not known; give a LoRA that says its lora_alpha"
        )


def _speaks(word: str) -> bool:
    sounds = word.startswith(KOHYA) or SOUNDS.search(word)
    return not sounds and bool(SPEAKS.search(word))
