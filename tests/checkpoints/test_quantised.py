"""Weights in eight bits, in every public layout: exactly what is stored, times its scale."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.wan_transformer import CONFIG, diffusers_name, wan_weights

from afstream.checkpoints import BackboneSource, merge_loras, read_loras, read_student
from afstream.checkpoints.files import file_weights, load_into
from afstream.checkpoints.shards import folder_weights
from afstream.errors import CheckpointError
from afstream.families.registry import identify
from afstream.families.wan.convert import prepare
from afstream.families.wan.text import load_text
from afstream.families.wan.vae import load_vae
from afstream.spec import ModelSpec

FP8 = torch.float8_e4m3fn
GROUPS = 4
MARK = {"scaled_fp8": torch.zeros(2).to(FP8)}
WEIGHTS = wan_weights()
MATRICES = [
    name for name, value in WEIGHTS.items() if name.startswith("blocks.") and value.ndim == 2
]


def settings(**said):
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def parts(value, scale):
    return value.reshape(len(value), GROUPS, -1) if scale.ndim == 3 else value


def stored(scale_of, dtype=FP8):
    """Matrices in eight bits: what is stored, its scales, and what it stands for."""
    eight, scales, true = dict(WEIGHTS), {}, dict(WEIGHTS)
    for name in MATRICES:
        scale = scale_of(WEIGHTS[name])
        value = parts(WEIGHTS[name], scale) / scale
        eight[name] = (value.round() if dtype == torch.int8 else value).to(dtype).flatten(1)
        scales[name.removesuffix(".weight")] = scale
        true[name] = (parts(eight[name].float(), scale) * scale).flatten(1)
    return eight, scales, true


def tensor_wise(value):
    return value.abs().max().reshape(()) / 448


def row_wise(value):
    return value.abs().amax(1, keepdim=True) / 127


def group_wise(value):
    return value.reshape(len(value), GROUPS, -1).abs().amax(2, keepdim=True) / 448


def scaled(scale_of=tensor_wise, dtype=FP8, word=".weight_scale", prefix=""):
    eight, scales, true = stored(scale_of, dtype)
    named = eight | {layer + word: scale for layer, scale in scales.items()}
    return {prefix + name: value.contiguous() for name, value in named.items()}, true


def quanto():
    content, true = scaled(row_wise, torch.int8, word=".weight._scale")
    layers = [name.removesuffix(".weight") for name in MATRICES]
    named = {
        f"{name}._data" if name in MATRICES else name: value for name, value in content.items()
    }
    words = ("input_scale", "output_scale")
    return named | {f"{one}.{word}": torch.ones(()) for one in layers for word in words}, true


def layouts():
    fp8, true = scaled(word=".scale_weight", prefix="model.diffusion_model.")
    inputs = {
        f"{name}.scale_input": torch.ones(()) for name in ("blocks.0.ffn.0", "blocks.1.ffn.2")
    }
    yield "fp8_scaled", {**fp8, **MARK, **inputs}, true
    comfy, true = scaled()
    layers = [name.removesuffix("weight") for name in MATRICES]
    said = {f"{layer}comfy_quant": settings(format="float8_e4m3fn") for layer in layers}
    yield "comfy_quant", comfy | said, true
    rows, true = scaled(row_wise, torch.int8)
    yield "int8", rows, true
    named = {
        name: value.flatten() if name.endswith("scale") else value for name, value in rows.items()
    }
    yield "int8, flat scales", named, true
    groups, true = scaled(group_wise, word=".scale_weight")
    yield "groups", groups | MARK, true
    ones = {name: one.reshape(1) if one.ndim == 0 else one for name, one in fp8.items()}
    yield "one value", {**ones, **MARK}, scaled()[1]
    groups, true = scaled(group_wise)
    flat = {name: one.flatten(1) if name.endswith("scale") else one for name, one in groups.items()}
    yield "groups of two axes", flat, true
    yield "quanto", *quanto()
    whole, true = scaled()
    yield "diffusers", {diffusers_name(name): value for name, value in whole.items()}, true


LAYOUTS = {name: (content, true) for name, content, true in layouts()}


def blocks_of(shape):
    """Values in eight bits, a scale for each 128 rows and columns, and what they stand for."""
    stored = torch.randn(shape).to(FP8)
    scale = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128)) + 0.5
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    return stored, scale, stored.float() * wide


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.safetensors"


def build(path, dtype=torch.float32, loras=()):
    weights = read_student(path).weights
    return BackboneSource(what="it", config=CONFIG, weights=weights, loras=loras).build(
        device="cpu", dtype=dtype
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_is_what_is_stored_times_its_scale(path, layout):
    content, true = LAYOUTS[layout]
    save_file(content, path)
    assert any(not torch.equal(true[name], WEIGHTS[name]) for name in MATRICES)
    for dtype in (torch.float32, torch.bfloat16):
        built = build(path, dtype).state_dict()
        assert built.keys() == true.keys()
        for name, value in true.items():
            assert torch.equal(built[name], value.to(dtype)), name
    found = read_student(path).weights
    assert found.keys() == true.keys()
    assert all(torch.equal(found[name], true[name]) for name in true)


@pytest.mark.parametrize("shape", [(128, 128), (300, 200), (128, 257), (64, 64)])
def test_blocks_of_rows_and_columns_have_scales_of_their_own(path, shape):
    value, scale, true = blocks_of(shape)
    save_file({"a.weight": value, "a.weight_scale_inv": scale}, path)
    assert torch.equal(file_weights(path)["a.weight"], true)
    wrong = torch.ones(scale.shape[0], scale.shape[1] + 1)
    save_file({"a.weight": value, "a.weight_scale_inv": wrong}, path)
    with pytest.raises(CheckpointError, match=r"weight_scale_inv .* which afstream cannot"):
        file_weights(path)


def test_a_weight_and_its_scale_may_lie_in_two_shards(tmp_path):
    content, true = LAYOUTS["int8"]
    scales = {name: value for name, value in content.items() if name.endswith("scale")}
    rest = {name: value for name, value in content.items() if name not in scales}
    for number, part in enumerate((rest, scales), 1):
        save_file(part, tmp_path / f"model-0000{number}-of-00002.safetensors")
    found = folder_weights(tmp_path, "model")
    assert found.keys() == true.keys()
    assert all(torch.equal(found[name], true[name]) for name in true)


def test_training_and_parity_merge_loras_as_generate_does(path, tmp_path):
    """Both ways to merge, on a base in eight bits, bit for bit."""
    content, true = LAYOUTS["fp8_scaled"]
    save_file(content, path)
    layer = "blocks.1.ffn.0"
    down, up = torch.randn(4, 64), torch.ones(128, 4)
    pair = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    save_file(pair, tmp_path / "l.safetensors")
    loras = read_loras([str(tmp_path / "l.safetensors")])
    merged = merge_loras(read_student(path).weights, loras)
    built = build(path, loras=loras).state_dict()
    assert merged.keys() == built.keys()
    assert all(torch.equal(merged[name], built[name]) for name in built)
    expected = true[f"{layer}.weight"] + up @ down
    torch.testing.assert_close(merged[f"{layer}.weight"], expected, rtol=0, atol=1e-5)


def test_loras_are_added_to_what_weights_stand_for(path, tmp_path):
    content, true = LAYOUTS["int8"]
    save_file(content, path)
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    layer = "blocks.0.self_attn.q"
    pair = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    save_file(pair, tmp_path / "l.safetensors")
    built = build(path, loras=read_loras([str(tmp_path / "l.safetensors")])).state_dict()
    expected = true[f"{layer}.weight"] + up @ down
    torch.testing.assert_close(built[f"{layer}.weight"], expected, rtol=0, atol=1e-5)


def test_a_converted_folder_holds_what_weights_stand_for(models, path, tmp_path):
    content, true = LAYOUTS["fp8_scaled"]
    save_file(content, path)
    spec = ModelSpec(name=str(models["original"]), student=str(path), dtype="float32")
    prepare(spec).write(tmp_path / "made")
    made = file_weights(tmp_path / "made" / "backbone.safetensors")
    assert made.keys() == true.keys()
    assert all(torch.equal(made[name], true[name]) for name in true)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_text_encoder_and_a_vae_in_eight_bits(models, tmp_path, layout):
    """Stored as ones times the true value of each row: nothing is lost, so nothing may differ."""
    folder = models[layout]
    place = {"original": "models_t5_umt5-xxl-enc-bf16.pth", "diffusers": "text_encoder"}[layout]
    file = folder / place if layout == "original" else folder / place / "model.safetensors"
    weights = file_weights(file)
    eight = {}
    for name, value in weights.items():
        if value.ndim == 2:
            eight[name] = torch.ones_like(value).to(FP8)
            eight[name.replace("weight", "scale_weight")] = value[:, :1].contiguous()
        else:
            eight[name] = value.clone()
    there = tmp_path / "t5"
    if layout == "original":
        torch.save({"state_dict": {f"module.{name}": one for name, one in eight.items()}}, there)
    else:
        there.mkdir()
        (there / "config.json").write_bytes((folder / place / "config.json").read_bytes())
        save_file(eight | MARK, there / "model.safetensors")
    tokenizer = folder / ("google/umt5-xxl" if layout == "original" else "tokenizer")
    encoder: Any = load_text(there, tokenizer).encoder
    plain = load_text(folder / place, tokenizer).encoder.state_dict()
    found = encoder.state_dict()
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        expected = value[:, :1].expand_as(value) if value.ndim == 2 else value
        assert torch.equal(found[name], expected), name
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight


def test_a_vae_in_eight_bits(models, path):
    weights = file_weights(models["original"] / "Wan2.1_VAE.pth")
    name = "decoder.conv1.weight"
    scaled_down = {f"model.{key}": value.clone() for key, value in weights.items()}
    scaled_down[f"model.{name}"] = torch.ones_like(weights[name]).to(FP8)
    scaled_down["model.decoder.conv1.scale_weight"] = torch.tensor(0.25)
    save_file(scaled_down, path)
    found = load_vae(path).autoencoder.state_dict()
    for key, value in (
        load_vae(models["original"] / "Wan2.1_VAE.pth").autoencoder.state_dict().items()
    ):
        changed = key == "decoder.conv_in.weight"
        assert torch.equal(found[key], torch.full_like(value, 0.25) if changed else value), key


def bad(**changes):
    return LAYOUTS["comfy_quant"][0] | {
        f"blocks.0.ffn.0.{name}": value for name, value in changes.items()
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bad(comfy_quant=settings(format="nvfp4")), "stores weights as 'nvfp4', which"),
        (bad(comfy_quant=settings(format="mxfp8")), "stores weights as 'mxfp8', which"),
        (
            bad(comfy_quant=settings(format="int8_tensorwise", convrot=True)),
            "stores weights as 'int8_tensorwise' with convrot, which",
        ),
        (bad(comfy_quant=torch.zeros(0, dtype=torch.uint8)), "does not tell how a weight is"),
        (bad(comfy_quant=settings()), "does not tell how a weight is stored"),
        (bad(weight_scale=torch.ones(2, 2)), r"weight_scale \(2, 2\), float32, which afstream can"),
        (bad(weight_scale=torch.ones(128, 3, 1)), r"\(128, 3, 1\), float32, which afstream cannot"),
        (bad(weight_scale=torch.ones((), dtype=torch.int8)), r"\(\), int8, which afstream cannot"),
        (bad(weight=torch.ones(128, 64, dtype=torch.uint8)), "holds uint8 weights with scales"),
        (
            bad(weight_scale_2=torch.ones(())),
            r"stores weights as nvfp4, by .*weight_scale_2, which",
        ),
        (bad(weight_zero_point=torch.zeros(128, 1)), "stores weights as numbers with zero points"),
        (bad(qweight=torch.zeros(8, 128, dtype=torch.int32)), r"packed numbers \(GPTQ or AWQ\)"),
        (bad(scale_weight=torch.ones(())), r"has two scales for blocks\.0\.ffn\.0\.weight, blocks"),
        (bad(weight_scale=torch.ones(64)), r"weight_scale \(64,\), float32, which afstream cannot"),
        (bad(weight_scale=torch.ones(1, 64)), r"weight_scale \(1, 64\), float32, which afstream"),
        (bad(weight_scale=torch.ones(128, 0)), r"weight_scale \(128, 0\), float32, which afstream"),
        (WEIGHTS | MARK, "says that its weights are scaled, but holds no scales"),
    ],
)
def test_what_cannot_be_restored_is_refused(path, content, words):
    save_file(content, path)
    for read in (read_student, identify):
        with pytest.raises(CheckpointError, match=words) as caught:
            read(path)
        assert "give the model's file in bfloat16" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_whole_numbers_without_scales_are_refused(path, dtype):
    name = "blocks.1.ffn.2.weight"
    save_file(WEIGHTS | {name: WEIGHTS[name].mul(100).to(dtype)}, path)
    with pytest.raises(CheckpointError, match=rf"{name} as {str(dtype)[6:]} without a scale"):
        build(path)


def test_a_scale_without_a_weight_is_unknown(path):
    save_file(WEIGHTS | {"blocks.0.new.weight_scale": torch.ones(())}, path)
    with pytest.raises(CheckpointError, match=r"1 unknown, for example blocks\.0\.new\.weight_sc"):
        build(path)


@pytest.mark.parametrize("bad_scale", [True, False])
def test_scales_and_eight_bit_weights_must_be_finite(path, bad_scale):
    content = dict(LAYOUTS["int8"][0])
    nan = torch.tensor(float("nan"))
    if bad_scale:
        content["blocks.0.ffn.0.weight_scale"] = nan
    else:
        content["blocks.0.ffn.0.weight"] = nan.expand(128, 64).to(FP8)
    save_file(content, path)
    with pytest.raises(CheckpointError, match=r"it has values in blocks\.0\.ffn\.0\.weight that"):
        build(path)


def test_scales_are_no_parameters_and_load_into_applies_them(path):
    content, _ = LAYOUTS["int8"]
    save_file(content, path)
    assert identify(path).num_parameters == sum(value.numel() for value in WEIGHTS.values())
    layer = torch.nn.Linear(2, 2, bias=False)
    half = {
        "a.weight": torch.full((2, 2), 3, dtype=torch.int8),
        "a.weight_scale": torch.tensor(0.5),
    }
    save_file(half, path)
    load_into(torch.nn.ModuleDict({"a": layer}), file_weights(path), what="it")
    assert torch.equal(layer.weight, torch.full((2, 2), 1.5))
