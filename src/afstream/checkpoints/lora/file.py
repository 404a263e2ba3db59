"""What a LoRA file holds: tensors by layer and part, and everything that speaks of strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from afstream.checkpoints.files import (
    check_plain,
    is_folder,
    read_json,
    read_metadata,
    read_weights,
)
from afstream.checkpoints.formats import format_of
from afstream.checkpoints.lora.names import (
    CHANGES,
    UNMERGED,
    LoraName,
    Part,
    foreign_family,
    nearest_layers,
    other_kind,
    own_name,
    plain_layer,
    take_apart,
)
from afstream.checkpoints.lora.settings import (
    ADAPTER_CONFIG,
    ALPHA,
    OF_OTHERS,
    Settings,
    read_settings,
)
from afstream.checkpoints.lora.values import number
from afstream.errors import CheckpointError
from afstream.text import some_of
from afstream.validation import show_name

ENTRY = "generator_lora"
# PEFT's file, and that of diffusers' pipelines, in a folder
FILES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
PEFT_STEM = "adapter_model"
HEADER = "the header"
# words that stand alone, without the name of an adapter
WITHOUT_ADAPTER = ("alpha", "dora_scale", "diff", "diff_b", "diff_m")
WANTED = (
    "a file of LoRA weights (names with lora_A and lora_B, lora_down and lora_up, lokr_, hada_, or"
    " diff, diff_b and diff_m)"
)


@dataclass(slots=True, kw_only=True)
class LoraFile:
    """A LoRA file's content, still without strengths.

    Attributes:
        parts: tensors by the model's own name of what they change, and what they are of it.
        alphas: what the file says of single layers, by the same name.
        spelled: the layers' names in the file, without prefixes, by the same name.
        adapters: a tensor's name by PEFT's name of the adapter, of which one file has one.
        settings: what speaks of strength, of all layers.
        beside: likewise in an `adapter_config.json` beside a file that is not PEFT's.
    """

    path: Path
    parts: dict[str, dict[Part, Tensor]] = field(default_factory=dict[str, dict[Part, Tensor]])
    alphas: dict[str, float] = field(default_factory=dict[str, float])
    spelled: dict[str, str] = field(default_factory=dict[str, str])
    adapters: dict[str, str] = field(default_factory=dict[str, str])
    settings: list[Settings] = field(default_factory=list[Settings])
    beside: list[Settings] = field(default_factory=list[Settings])


def is_lora(content: Mapping[Any, Any]) -> bool:
    """Whether a file's content is a LoRA, or another kind of adapter, by its names."""
    return bool(_entries(content)) or any(map(_is_part, content))


def lora_path(path: Path) -> Path:
    """The file of a LoRA that is given as a file or as PEFT's or diffusers' folder.

    Raises:
        CheckpointError: it is a folder of something else, or out of reach.
    """
    if not is_folder(path):
        return path
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{path} is a folder without {FILES[0]}; give a LoRA's file, or the folder that PEFT"
            " saved"
        )
    return found[0]


def is_lora_folder(path: Path) -> bool:
    """Whether a folder is one that PEFT or diffusers saved a LoRA in."""
    return any((path / name).is_file() for name in FILES)


def read_lora_file(path: Path) -> LoraFile:
    """Read a LoRA's file: pairs directly, or a dict that has them under one name.

    Raises:
        CheckpointError: it is missing, no checkpoint, or no LoRA that can be merged; or what
            speaks of strength is not understood.
    """
    content = read_weights(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; a LoRA holds named weights")
    # its header may say a strength in words that nobody has written down
    if format_of(path) == "gguf":
        raise CheckpointError(
            f"{path} is a GGUF file, of which afstream reads models, not LoRAs; give the LoRA's"
            " .safetensors file"
        )
    entry = _entry(content, path)
    file = gathered(content[entry] if entry else content, path, entry)
    if entry:
        outer = {name: value for name, value in content.items() if name != entry}
        file.settings += read_settings(outer, "the file", path)
    add_settings_beside(file)
    return file


def gathered(entries: object, path: Path, entry: str = "") -> LoraFile:
    """A LoRA's content from its weights by name, with settings among them.

    `entry` is the name under which the file has them, if it has one. Raises what `read_lora_file`
    raises.
    """
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{path} holds {type(entries).__name__} as its LoRA; give a LoRA file"
        )
    if found := next((name for name in entries if UNMERGED in str(name)), None):
        raise CheckpointError(
            f"{path} is a model with its LoRA beside it, not merged yet ({show_name(found)}); give"
            " it as the student"
        )
    file, rest = LoraFile(path=path), dict[Any, Any]()
    taken = dict[tuple[str, Part], str]()
    for name, value in entries.items():
        found = take_apart(str(name))
        if _is_of_all(str(name)) or not (found or isinstance(value, Tensor)):
            rest[name] = value
            continue
        if isinstance(value, Tensor):
            check_plain(str(name), value, path)
        elif found and found.part != "alpha":
            raise CheckpointError(
                f"{path} holds {show_name(name)}, which is no tensor; give a whole LoRA"
            )
        _add(file, str(name), value, taken)
    file.settings += read_settings(rest, f"its {entry}" if entry else "the file", path)
    return file


def add_settings_beside(file: LoraFile) -> None:
    """Add what the header says, and an `adapter_config.json` beside the file."""
    path = file.path
    file.settings += read_settings(read_metadata(path), HEADER, path)
    config = path.with_name(ADAPTER_CONFIG)
    if config.is_file():
        said = read_settings(read_json(config), ADAPTER_CONFIG, config)
        if path.stem == PEFT_STEM:
            file.settings += said
        else:
            file.beside += said


def _entries(content: Mapping[Any, Any]) -> list[str]:
    """Names under which a file holds LoRA weights, without those of models trained beside it."""
    if ENTRY in content:
        return [ENTRY]
    return [
        name
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, dict)
        if not OF_OTHERS.search(name) and any(map(_is_part, value))
    ]


def _entry(content: Mapping[Any, Any], path: Path) -> str:
    """The name under which a file holds its LoRA weights; empty where they have none."""
    found = _entries(content)
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds LoRA weights under {some_of(found)}; give a file of one LoRA"
        )
    return found[0] if found else ""


def _is_of_all(name: str) -> bool:
    """Whether a name is that of an alpha of all layers."""
    before, _, word = name.rpartition(".")
    return word in ALPHA and not plain_layer(f"{before}." if before else "")


def _is_part(name: object) -> bool:
    found = take_apart(str(name))
    return bool((found and found.part != "alpha") or other_kind(str(name)))


def _add(file: LoraFile, name: str, value: Any, taken: dict[tuple[str, Part], str]) -> None:  # noqa: ANN401
    """Add a tensor, or a number as a layer's alpha, under the model's own name."""
    path = file.path
    if kind := other_kind(name):
        raise CheckpointError(
            f"{path} holds {show_name(name)}, a part of {kind}, which cannot be merged; give a"
            " LoRA, DoRA, LoKr or LoHa"
        )
    found = take_apart(name)
    if found is None:
        raise CheckpointError(
            f"{path} holds {show_name(name)}, which is no part of a LoRA; give {WANTED}"
        )
    own = _own(found, file)
    if found.part not in WITHOUT_ADAPTER:
        file.adapters.setdefault(found.adapter, name)
    if len(file.adapters) > 1:
        shown = " and ".join(map(show_name, file.adapters.values()))
        raise CheckpointError(f"{path} holds more than one adapter, by {shown}; give a file of one")
    key = own, found.part
    if key in taken:
        raise CheckpointError(
            f"{path} changes {own} twice, by {show_name(taken[key])} and {show_name(name)}; give"
            " a LoRA that changes it once"
        )
    taken[key] = name
    if found.part == "alpha":
        file.alphas[own] = number(value, path, own.removesuffix(".weight"))
        return
    if not value.is_floating_point():
        raise CheckpointError(
            f"{path} holds {show_name(name)} as {str(value.dtype).removeprefix('torch.')}, which"
            " are no weights without a scale; give a LoRA in floating point"
        )
    file.parts.setdefault(own, {})[found.part] = value
    file.spelled[own] = plain_layer(found.layer)


def _own(found: LoraName, file: LoraFile) -> str:
    """The model's own name of what a tensor changes; a LoRA without one is refused."""
    own = own_name(found.layer, CHANGES.get(found.part, "weight"))
    if own:
        return own
    if family := foreign_family(found.layer):
        raise CheckpointError(
            f"LoRA {file.path} is for {family}: it changes {show_name(found.layer)}; give a LoRA"
            " of Wan2.1 text-to-video"
        )
    near = ", ".join(nearest_layers(found.layer))
    raise CheckpointError(
        f"LoRA {file.path} is of an unknown layout: it changes {show_name(found.layer)}, and the"
        f" nearest of the model's own names are {near}; give a LoRA of Wan2.1 text-to-video"
    )
