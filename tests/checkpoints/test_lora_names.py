"""Layouts of LoRA files: names undone by the model's own, and everything that a file may add."""

import pytest
import torch
from tests.checkpoints.lora_files import (
    LAYERS,
    check_factor,
    check_merged,
    expected,
    pair,
    pairs,
    theirs,
    underscored,
    written,
)
from tests.wan_transformer import CONFIG, diffusers_name, wan_weights

from afstream.checkpoints import merge_loras, read_lora
from afstream.checkpoints.backbone import BackboneSource
from afstream.checkpoints.files import shapes_of
from afstream.checkpoints.lora.names import own_name
from afstream.errors import CheckpointError

KOHYA = "lora_down.weight", "lora_up.weight"
LAYER = "blocks.0.self_attn.q"


def spelled_by_torch(layer):
    head, index, rest = layer.split(".", 2)
    return f"_fsdp_wrapped_module.{head}.{index}._orig_mod.{rest}"


@pytest.mark.parametrize(
    "content",
    [
        pairs("diffusion_model."),
        pairs("transformer.", spell=theirs),
        pairs("pipe.dit.", "lora_A.default.weight", "lora_B.default.weight"),
        pairs("", "lora_A.style.weight", "lora_B.style.weight"),
        pairs("base_model.model.model."),
        pairs("module.base_model.model.", spell=spelled_by_torch),
        pairs("lora_unet_", *KOHYA, spell=underscored),
        pairs("lora_unet__", *KOHYA, spell=underscored),
        pairs("lora_unet_", *KOHYA, spell=lambda layer: layer.replace("blocks.", "blocks_")),
        pairs("lycoris_", *KOHYA, spell=underscored),
        pairs("lora_unet_", *KOHYA, spell=lambda layer: underscored(theirs(layer))),
        pairs("transformer.", "lora.down.weight", "lora.up.weight", spell=theirs),
        pairs("", "lora_A", "lora_B"),
    ],
)
def test_every_layout(tmp_path, content):
    check_factor(written(tmp_path / "l.safetensors", content), 1)


def test_every_weight_has_its_spellings():
    for name in wan_weights():
        layer, _, end = name.rpartition(".")
        their_layer, _, their_end = diffusers_name(name).rpartition(".")
        assert own_name(layer, end) == name
        assert own_name(underscored(f"lora_unet_{layer}"), end) == name
        if end == their_end:
            assert own_name(underscored(their_layer), end) == name


def test_differences_are_added_times_the_scale(tmp_path):
    """LightX2V's and Kijai's: a layer's alpha does not count for them."""
    changed = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.self_attn.q.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.self_attn.norm_q.weight",
        "blocks.1.diff_m": "blocks.1.modulation",
        "head.diff_m": "head.modulation",
        "patch_embedding.diff": "patch_embedding.weight",
    }
    content = pairs("diffusion_model.", *KOHYA, alpha=torch.tensor(2.0))
    wanted = expected(dict.fromkeys(LAYERS, -0.25))
    for name, weight in changed.items():
        content[f"diffusion_model.{name}"] = value = torch.randn(wanted[weight].shape)
        wanted[weight] -= 0.5 * value
    check_merged([f"{written(tmp_path / 'l.safetensors', content)}:-0.5"], wanted)


def test_a_bias_of_a_pair_counts_as_the_pair(tmp_path):
    content = pairs(alpha=torch.tensor(2.0))
    content[f"{LAYER}.lora_B.bias"] = value = torch.randn(64)
    wanted = expected(dict.fromkeys(LAYERS, 0.5))
    wanted[f"{LAYER}.bias"] += 0.5 * value
    check_merged([written(tmp_path / "l.safetensors", content)], wanted)


def test_a_convolution(tmp_path):
    down, up = torch.randn(4, 16, 1, 2, 2), torch.randn(64, 4, 1, 1, 1)
    content = {"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up}
    wanted = wan_weights()
    wanted["patch_embedding.weight"] += torch.einsum("or,rcfhw->ocfhw", up[..., 0, 0, 0], down)
    check_merged([written(tmp_path / "l.safetensors", content)], wanted)


def test_a_convolution_of_two_axes(tmp_path):
    """As who extracts a LoRA by a decomposition writes it: the values of a row side by side."""
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    content = {"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up}
    wanted = wan_weights()
    wanted["patch_embedding.weight"] += (up @ down).view(64, 16, 1, 2, 2)
    path = written(tmp_path / "l.safetensors", content)
    check_merged([path], wanted)
    assert not read_lora(path).misfit(shapes_of(wan_weights()))
    content["patch_embedding.lora_A.weight"] = torch.randn(4, 63)
    with pytest.raises(CheckpointError, match=r"as \(64, 63\), but the model has \(64, 16, 1, 2"):
        merge_loras(wan_weights(), [read_lora(written(path, content))])


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_bases_and_loras_of_every_dtype_are_merged_in_float32_or_better(tmp_path, dtype):
    base = {name: value.to(dtype) for name, value in wan_weights().items()}
    halves = {name: value.to(dtype) for name, value in pairs().items()}
    given = [written(tmp_path / "a.pt", halves), f"{written(tmp_path / 'b.pt', pairs())}:-0.3"]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    wanted = dict(base)
    for layer in LAYERS:
        down, up = (half.to(wide) for half in pair(layer))
        low = [half.to(dtype).to(wide) for half in pair(layer)]
        wanted[f"{layer}.weight"] = base[f"{layer}.weight"].to(wide) + low[1] @ low[0]
        wanted[f"{layer}.weight"] -= 0.3 * (up @ down)
    check_merged(given, wanted, base)


def test_who_gave_what_is_not_finite_in_float8(tmp_path):
    path = written(tmp_path / "l.pt", {f"{LAYER}.diff": torch.full((64, 64), float("inf"))})
    weights = {name: value.to(torch.float8_e5m2) for name, value in wan_weights().items()}
    source = BackboneSource(what="it", config=CONFIG, weights=weights, loras=[read_lora(path)])
    with pytest.raises(CheckpointError, match=f"LoRA {path} has values in {LAYER}.weight"):
        source.build(device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lora_unet_blocks_0_self_attn_q.lora_A.weight": torch.ones(4, 64)}, "q.weight twice, by"),
        ({f"{LAYER}.lora_A.style.weight": torch.ones(4, 64)}, "holds more than one adapter, by"),
        ({f"{LAYER}.lora_B.bias": torch.ones(64), f"{LAYER}.diff_b": torch.ones(2)}, ""),
        ({f"{LAYER}.diff": torch.ones(64, 64, dtype=torch.int8)}, f"{LAYER}.diff as int8, which"),
        (
            {f"{LAYER}.oft_blocks": torch.ones(64)},
            "holds blocks.0.self_attn.q.oft_blocks, a part of OFT, which",
        ),
        ({f"{LAYER}.boft_R": torch.ones(64, 1)}, "a part of BOFT,"),
        ({f"{LAYER}.a1.weight": torch.ones(8, 8)}, "a part of GLoRA,"),
        ({f"{LAYER}.ia3_l": torch.ones(8, 8)}, "a part of (IA)3,"),
        ({f"{LAYER}.scalar": torch.ones(())}, "is no part of a LoRA"),
        ({f"{LAYER}.base_layer.weight": torch.ones(64, 64)}, "not merged yet"),
        ({f"{LAYER}.weight": torch.ones(64, 64)}, "is no part of a LoRA"),
        ({f"{LAYER}.lora_A.bias": torch.ones(64)}, "is no part of a LoRA"),
        ({"blocks.0.ffn.2.lora_B.bias": torch.ones(64)}, "has a bias of a pair for blocks.0.ffn.2"),
        ({"blocks.0.ffn.2.lora_A.weight": [1.0]}, "lora_A.weight, which is no tensor"),
        ({"blocks.0.cross_attn.k_img.diff": torch.ones(2)}, "is for Wan image-to-video: it"),
        ({"transformer_2.blocks.0.ffn.0.diff": torch.ones(2)}, "is for Wan2.2 (two backbones)"),
        ({"blocks.1.selfattn.q.diff": torch.ones(2)}, "names are blocks.1.self_attn.q, blocks.1.s"),
        ({"lora_unet_blocks_1_ffn_1.diff": torch.ones(2)}, "names are blocks.1.ffn."),
    ],
)
def test_what_cannot_be_merged_says_what_it_is(tmp_path, more, words):
    path = written(tmp_path / "l.pt", pairs() | more)
    with pytest.raises(CheckpointError) as caught:
        merge_loras(wan_weights(), [read_lora(path)])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    unknown = "unknown layout" in words or "names are" in words
    assert ("of an unknown layout" in str(caught.value)) == unknown
    assert ("another base" in str(caught.value)) == (not words)


def test_halves_of_rank_0(tmp_path):
    content = {
        f"{LAYER}.lora_A.weight": torch.ones(0, 64),
        f"{LAYER}.lora_B.weight": torch.ones(64, 0),
    }
    with pytest.raises(CheckpointError, match="give a LoRA of rank 1 or more"):
        read_lora(written(tmp_path / "l.pt", content))
