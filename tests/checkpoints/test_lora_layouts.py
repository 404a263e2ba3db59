"""LoRA files as public tools lay them out, each against the rule, at scales of both signs."""

import json
from collections.abc import Callable

import pytest
import torch
from tests.checkpoints.lora_files import (
    LAYERS,
    check_merged,
    expected,
    pair,
    pairs,
    theirs,
    underscored,
    written,
)
from tests.wan_transformer import wan_weights

KOHYA = "lora_down.weight", "lora_up.weight"
DEFAULT = "lora_A.default.weight", "lora_B.default.weight"
OLD = "lora.down.weight", "lora.up.weight"


def named(
    *,
    alpha: object = None,
    prefix: str = "",
    words: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
    spell: Callable[[str], str] = str,
):
    return pairs(prefix, *words, alpha=alpha, spell=spell)


def their_underscores(layer):
    return underscored(theirs(layer))


def mixed():
    """One layer in each of three spellings."""
    first, second, third = (f"{layer}." for layer in LAYERS)
    content = {}
    for start, layer, words in (
        (f"diffusion_model.{first}", LAYERS[0], ("lora_A.weight", "lora_B.weight")),
        (f"lora_unet_{underscored(second[:-1])}.", LAYERS[1], KOHYA),
        (f"transformer.{theirs(third[:-1])}.", LAYERS[2], OLD),
    ):
        content |= {start + word: half for word, half in zip(words, pair(layer), strict=True)}
    return content


def adapter(**more):
    settings = {f"transformer.{name}": value for name, value in more.items()}
    return {"lora_adapter_metadata": json.dumps(settings)}


# name: content, header, factor
LAYOUTS = {
    "musubi": (
        named(alpha=torch.tensor(2.0), prefix="lora_unet_", words=KOHYA, spell=underscored),
        {
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_network_module": "networks.lora_wan",
        },
        0.5,
    ),
    "kohya's diffusers words": (
        named(prefix="lora_unet_", words=KOHYA, spell=their_underscores),
        {},
        1,
    ),
    "lycoris locon": (
        named(alpha=torch.tensor(1.0), prefix="lycoris_", words=KOHYA, spell=underscored),
        {"ss_network_args": '{"algo": "lora", "preset": "full"}'},
        0.25,
    ),
    "lycoris rs_lora": (
        named(alpha=torch.tensor(1.0), prefix="lycoris_", words=KOHYA, spell=underscored),
        {"ss_network_args": '{"rs_lora": "True"}'},
        0.5,
    ),
    "VideoX-Fun": (
        named(alpha=torch.tensor(2.0), prefix="lora_unet__", words=KOHYA, spell=underscored),
        {},
        0.5,
    ),
    "ai-toolkit": (
        named(prefix="diffusion_model."),
        {"software": '{"name": "ai-toolkit"}', "format": "pt"},
        1,
    ),
    "ai-toolkit with alpha": (named(alpha=torch.tensor(4.0), prefix="diffusion_model."), {}, 1),
    "diffusion-pipe": (named(prefix="diffusion_model."), {"format": "pt"}, 1),
    "ComfyUI": (named(prefix="model.diffusion_model."), {}, 1),
    "DiffSynth": (named(words=DEFAULT), {}, 1),
    "DiffSynth's pipeline": (named(prefix="pipe.dit.", words=DEFAULT), {}, 1),
    "LightX2V": (named(prefix="diffusion_model.", words=KOHYA), {}, 1),
    "LightX2V with alpha": (
        named(alpha=torch.tensor(8.0), prefix="diffusion_model.", words=KOHYA),
        {},
        2,
    ),
    "diffusers": (named(prefix="transformer.", spell=theirs), {}, 1),
    "diffusers before PEFT": (named(prefix="transformer.", words=OLD, spell=theirs), {}, 1),
    "diffusers' settings": (
        named(prefix="transformer.", spell=theirs),
        adapter(r=4, lora_alpha=2, lora_bias=False, use_dora=False),
        0.5,
    ),
    "diffusers' rsLoRA": (
        named(prefix="transformer.", spell=theirs),
        adapter(r=4, lora_alpha=2, use_rslora=True),
        1,
    ),
    "rank_pattern as an expression": (
        named(prefix="transformer.", spell=theirs),
        adapter(r=8, lora_alpha=2, rank_pattern={r"blocks\.[01]\..*": 4}),
        0.5,
    ),
    "anchored patterns": (
        named(prefix="transformer.", spell=theirs),
        adapter(r=4, lora_alpha=9, alpha_pattern={r"^blocks\.\d\..*": 2}),
        0.5,
    ),
    "PEFT": (named(prefix="base_model.model."), {}, 1),
    "PEFT nested twice": (named(prefix="base_model.model.base_model.model.", words=DEFAULT), {}, 1),
    "a named adapter": (
        named(
            prefix="transformer.",
            words=("lora_A.my-style.weight", "lora_B.my-style.weight"),
            spell=theirs,
        ),
        {},
        1,
    ),
    "alpha of one axis": (named(alpha=torch.tensor([2.0])), {}, 0.5),
    "alpha in bfloat16": (named(alpha=torch.tensor(2, dtype=torch.bfloat16)), {}, 0.5),
    "alpha in whole numbers": (named(alpha=torch.tensor(2)), {}, 0.5),
    "alpha below 0": (named(alpha=torch.tensor(-2.0)), {}, -0.5),
    "three spellings": (mixed(), {}, 1),
}


@pytest.mark.parametrize("scale", [1, -0.6])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_layout(tmp_path, name, scale):
    content, metadata, factor = LAYOUTS[name]
    path = written(tmp_path / "l.safetensors", content, metadata)
    check_merged([f"{path}:{scale}"], expected(dict.fromkeys(LAYERS, factor * scale)))


@pytest.mark.parametrize("name", ["l.SAFETENSORS", "l.sft", "l.PT", "l"])
def test_a_suffix_does_not_count(tmp_path, name):
    made = written(tmp_path / "made.safetensors", named())
    check_merged([made.rename(tmp_path / name)], expected(dict.fromkeys(LAYERS, 1)))


def test_three_at_once(tmp_path):
    scales = {"musubi": 0.3, "diffusers": -1.2, "LightX2V with alpha": 0.05}
    given, total = [], 0
    for index, (name, scale) in enumerate(scales.items()):
        content, metadata, factor = LAYOUTS[name]
        given.append(f"{written(tmp_path / f'{index}.safetensors', content, metadata)}:{scale}")
        total += factor * scale
    wanted = expected(dict.fromkeys(LAYERS, total))
    check_merged(given, wanted)
    check_merged(given[::-1], wanted)


def test_lightx2v_with_differences_of_everything(tmp_path):
    content, wanted = {}, wan_weights()
    for name, weight in wanted.items():
        layer, _, end = name.rpartition(".")
        word = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}[end]
        content[f"diffusion_model.{layer}.{word}"] = value = torch.randn(weight.shape)
        wanted[name] = weight - 0.25 * value
    check_merged([f"{written(tmp_path / 'l.safetensors', content)}:-0.25"], wanted)
