"""Names in LoRA files: which layer a tensor belongs to, and which part of the change it is.

Trainers spell Wan's layers with dots or underscores, in Wan's words or in diffusers', behind a
prefix of their own. A spelling is undone by looking it up among the model's own names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from typing import NamedTuple

import torch

from afstream.checkpoints.kinds import IMAGE_TO_VIDEO, TWO_BACKBONES, VACE
from afstream.checkpoints.names import INNER, OUTER, PREFIXES, WRAPPERS
from afstream.config import WAN_BACKBONES
from afstream.model.dit import Backbone

# what a tensor is of the change of a weight: a value of WORDS, `bias`, or a word of OTHER
Part = str
PEFT_MAGNITUDE = "lora_magnitude_vector"
MAGNITUDES = (PEFT_MAGNITUDE, "dora_scale")
# tensors of kinds that are called the same everywhere
LOKR = tuple(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
LOHA = tuple(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
# the halves of a pair, in PEFT's words, kohya's, and those of old diffusers, and its core
WORDS: dict[str, Part] = {
    "lora_A": "down",
    "lora_down": "down",
    "lora.down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora.up": "up",
    "lora_mid": "mid",
    **{name: name for name in (*MAGNITUDES, *LOKR, *LOHA)},
}
ANY_WORD = "|".join(map(re.escape, WORDS))
# layer, word, the adapter's name, and what of the part it is
WORD = re.compile(rf"(.+)\.({ANY_WORD})(?:\.(?!(?:weight|bias)$)([^.]+))?(?:\.(weight|bias))?")
OTHER = re.compile(r"(.+)\.(alpha|diff|diff_b|diff_m)")
# what a part changes, of its layer
CHANGES: dict[Part, str] = {
    "bias": "bias",
    "diff_b": "bias",
    "diff_m": "modulation",
}
# parts of kinds that cannot be merged, by what stands in their names
KINDS = {
    "oft_": "OFT",
    "boft_": "BOFT",
    "ia3_": "(IA)3",
    "on_input": "(IA)3",
    "a1": "GLoRA",
    "a2": "GLoRA",
    "b1": "GLoRA",
    "b2": "GLoRA",
    "vera_": "VeRA",
    "lora_embedding_": "a LoRA of an embedding",
}
# of these, those that are short and end a name
WHOLE_WORDS = ("on_input", "a1", "a2", "b1", "b2")
KIND = re.compile(
    rf"[._]({'|'.join(kind for kind in KINDS if kind not in WHOLE_WORDS)})"
    rf"|\.({'|'.join(WHOLE_WORDS)})(?:\.weight)?$"
)
# in the name of a weight to which PEFT adds a pair
UNMERGED = ".base_layer."
# stand before a layer's name; several may
PREFIX = re.compile(
    "(?:"
    + "|".join(
        map(
            re.escape,
            (*PREFIXES, "lora_unet__", "lora_unet_", "lycoris_"),
        )
    )
    + ")*"
)
BLOCK = re.compile(r"blocks_([0-9]{1,6})_(.+)")
# parts of names of models that are no Wan2.1 text-to-video
FOREIGN = {
    "k_img": IMAGE_TO_VIDEO,
    "v_img": IMAGE_TO_VIDEO,
    "img_emb": IMAGE_TO_VIDEO,
    "add_k_proj": IMAGE_TO_VIDEO,
    "add_v_proj": IMAGE_TO_VIDEO,
    "image_embedder": IMAGE_TO_VIDEO,
    "vace_": VACE,
    "transformer_2": TWO_BACKBONES,
}
NEAREST = 3
# characters of a name; of those, how many are compared with others
LONGEST = 1000
COMPARED = 100


class LoraName(NamedTuple):
    """A tensor's name, taken apart.

    Attributes:
        layer: as the file spells it.
        part: of the change.
        adapter: PEFT's name of the adapter; empty where there is none.
    """

    layer: str
    part: Part
    adapter: str = ""


class OwnNames(NamedTuple):
    """The model's own names of weights by their spellings with underscores.

    Attributes:
        inner: of one layer, without `blocks.N.`.
        outer: all others.
    """

    inner: dict[str, str]
    outer: dict[str, str]


def take_apart(name: str) -> LoraName | None:
    """Layer and part of a tensor in a LoRA file; None for one that is no part of a LoRA."""
    if len(name) > LONGEST:
        return None
    if found := WORD.fullmatch(name):
        part = WORDS[found[2]]
        if found[4] != "bias":
            return LoraName(found[1], part, found[3] or "")
        return LoraName(found[1], "bias", found[3] or "") if part == "up" else None
    found = OTHER.fullmatch(name)
    return LoraName(found[1], found[2]) if found else None


def other_kind(name: str) -> str:
    """The kind of adapter that a tensor is part of, if it is none of ours; else empty."""
    found = KIND.search(name)
    return KINDS[found[1] or found[2]] if found else ""


def foreign_family(name: str) -> str:
    """The family of models that a name tells of, if it is none of ours; else empty."""
    return next((family for word, family in FOREIGN.items() if word in name), "")


def plain_layer(layer: str) -> str:
    """A layer's name as the file spells it, without wrappers and prefixes."""
    for wrapper in WRAPPERS:
        layer = layer.replace(wrapper, "")
    found = PREFIX.match(layer)
    return layer[found.end() :] if found else layer


def own_name(layer: str, end: str) -> str | None:
    """The model's own name of a layer's `weight`, `bias` or `modulation`, if it may have one.

    How many layers a model has is not looked at.
    """
    spelled = f"{plain_layer(layer)}.{end}".replace(".", "_")
    names = _own_names()
    if block := BLOCK.fullmatch(spelled):
        found = names.inner.get(block[2])
        return found and f"blocks.{int(block[1])}.{found}"
    return names.outer.get(spelled)


def nearest_layers(layer: str) -> list[str]:
    """The model's own layers whose names are most like one that it does not have."""
    spelled = plain_layer(layer).replace(".", "_")[:COMPARED]
    names = _own_names()
    block = re.match(r"blocks_([0-9]{1,6})_", spelled)
    head = f"blocks.{int(block[1])}." if block else "blocks.0."
    known = {
        (start + own.rpartition(".")[0]).replace(".", "_"): start + own.rpartition(".")[0]
        for start, table in ((head, names.inner), ("", names.outer))
        for own in table.values()
        if own.endswith(".weight")
    }
    return [known[one] for one in get_close_matches(spelled, known, NEAREST, 0)]


@cache
def _own_names() -> OwnNames:
    with torch.device("meta"):
        names = list(Backbone(replace(WAN_BACKBONES["wan-1.3b"], num_layers=1)).state_dict())
    first = "blocks.0."
    inner = [name.removeprefix(first) for name in names if name.startswith(first)]
    outer = [name for name in names if not name.startswith(first)]
    return OwnNames(_spellings(inner, INNER), _spellings(outer, OUTER))


def _spellings(names: list[str], theirs: dict[str, str]) -> dict[str, str]:
    """Names by their spellings with underscores, in Wan's words and in diffusers'."""
    found = {name.replace(".", "_"): name for name in names}
    for their_word, own_word in theirs.items():
        for name in names:
            if name == own_word or name.startswith(f"{own_word}."):
                spelled = their_word + name.removeprefix(own_word)
                found[spelled.replace(".", "_")] = name
    return found
