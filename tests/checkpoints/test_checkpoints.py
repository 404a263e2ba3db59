"""Checkpoints as users hold them: every layout, every wrapper, and every way to be wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_transformer import CONFIG, DIFFUSERS, diffusers_name, wan_weights, write_transformer

from afstream.checkpoints import (
    BackboneSource,
    merge_loras,
    read_config,
    read_lora,
    read_loras,
    read_student,
    resolve,
    sizes_of,
)
from afstream.checkpoints.kinds import PIECES
from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.errors import CheckpointError
from afstream.families.opening import open_model
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.spec import ModelSpec, split_scale

LAYOUTS = ("original", "diffusers")
GOLDEN = Path(__file__).parents[1] / "golden"


def write_others(folder, layout):
    """Stand-ins for VAE, text encoder and tokenizer: only their place matters here."""
    names = {
        "original": ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl"),
        "diffusers": ("vae", "text_encoder", "tokenizer"),
    }
    for name in names[layout]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix == ".pth" else path.mkdir()


def folder_parts(folder, *wanted):
    return resolve(ModelSpec(name=str(folder)), wanted or PIECES)


def folder_source(folder):
    found = read_student(folder_parts(folder).place("backbone"))
    config = sizes_of(found.weights, what="it", declared=found.declared)
    return BackboneSource(what="it", config=config, weights=found.weights)


def build(source, dtype=torch.float32):
    return source.build(device="cpu", dtype=dtype)


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shards", [1, 3])
def test_folders_of_both_layouts_give_the_same_backbone(tmp_path, layout, shards):
    write_transformer(tmp_path, layout, shards=shards)
    write_others(tmp_path, layout)
    assert folder_parts(tmp_path).folder.layout == layout
    source = folder_source(tmp_path)
    assert source.config == CONFIG
    backbone = build(source)
    assert same(backbone.state_dict(), wan_weights())
    assert not any(weight.requires_grad for weight in backbone.parameters())
    assert build(source, torch.bfloat16).dtype == torch.bfloat16


def test_loaded_weights_do_not_hang_on_their_file(tmp_path):
    write_transformer(tmp_path, "original")
    write_others(tmp_path, "original")
    backbone = build(folder_source(tmp_path))
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    assert same(backbone.state_dict(), wan_weights())


WRAPPERS: dict[str, Any] = {
    "bare": lambda weights: weights,
    "generator": lambda weights: {"generator": weights, "step": 3},
    "model": lambda weights: {"generator": {f"model.{name}": weights[name] for name in weights}},
    "fsdp": lambda weights: {
        "generator_ema": {
            f"model._fsdp_wrapped_module.{name}".replace(
                ".self_attn", "._fsdp_wrapped_module.self_attn"
            ): weights[name]
            for name in weights
        }
    },
    "comfy": lambda weights: {f"diffusion_model.{name}": weights[name] for name in weights},
    "diffusers": lambda weights: {diffusers_name(name): weights[name] for name in weights},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_students_under_any_wrapping(tmp_path, wrapper):
    torch.save(WRAPPERS[wrapper](wan_weights()), tmp_path / "student.pt")
    student = read_student(tmp_path / "student.pt")
    assert same(student.weights, wan_weights())


@pytest.mark.parametrize("wrapper", ["bare", "model", "comfy", "diffusers"])
def test_students_in_safetensors(tmp_path, wrapper):
    content = WRAPPERS[wrapper](wan_weights())
    save_file(content.get("generator", content), tmp_path / "student.safetensors")
    assert same(read_student(tmp_path / "student.safetensors").weights, wan_weights())


def test_the_moving_average_is_preferred_and_said(tmp_path):
    path = tmp_path / "student.pt"
    average, last = wan_weights(seed=1), wan_weights(seed=2)
    torch.save({"generator": last, "generator_ema": average, "critic": last}, path)
    student = read_student(path)
    assert same(student.weights, average)
    assert student.describe() == "student.pt (generator_ema, the moving average)"
    torch.save({"generator": last, "generator_ema": {}}, path)
    assert same(read_student(path).weights, last)
    assert read_student(path).describe() == "student.pt (generator)"


def test_sizes_are_told_from_weights_alone():
    sizes = sizes_of(wan_weights(), what="it", declared={"head_dim": 32})
    assert sizes == CONFIG
    with pytest.raises(CheckpointError, match="64 wide, which cannot be split into heads of 128"):
        sizes_of(wan_weights(), what="it", declared={})


LORA_LAYERS = ("blocks.0.self_attn.q", "blocks.1.ffn.0", "blocks.1.cross_attn.o")


def lora_pairs(rank=4, layers=LORA_LAYERS):
    weights = wan_weights()
    shapes = {layer: weights[f"{layer}.weight"].shape for layer in layers}
    return {
        layer: (torch.randn(rank, shape[1]), torch.randn(shape[0], rank))
        for layer, shape in shapes.items()
    }


def peft(pairs, prefix="base_model.model.", down="lora_A", up="lora_B"):
    named = {}
    for layer, (a, b) in pairs.items():
        named[f"{prefix}{layer}.{down}.weight"], named[f"{prefix}{layer}.{up}.weight"] = a, b
    return named


def with_loras(*given):
    loras = read_loras([str(one) for one in given])
    source = BackboneSource(what="it", config=CONFIG, weights=wan_weights(), loras=loras)
    return build(source).state_dict()


def test_loras_are_merged_by_alpha_over_rank_and_scale(tmp_path):
    pairs = lora_pairs()
    torch.save({"generator_lora": peft(pairs)}, tmp_path / "a.pt")
    save_file(peft(pairs), tmp_path / "b.safetensors", {"lora_alpha": "8"})
    save_file(
        {
            **peft(pairs, "diffusion_model.", "lora_down", "lora_up"),
            **{f"diffusion_model.{layer}.alpha": torch.tensor(2.0) for layer in pairs},
        },
        tmp_path / "c.safetensors",
    )
    renamed = {
        diffusers_name(f"{layer}.weight").removesuffix(".weight"): pairs[layer] for layer in pairs
    }
    adapter = json.dumps({"transformer.lora_alpha": 12, "transformer.r": 4})
    save_file(
        peft(renamed, "transformer."),
        tmp_path / "d.safetensors",
        {"lora_adapter_metadata": adapter},
    )
    for file, factor in (
        ("a.pt", 1),
        ("a.pt:0.5", 0.5),
        ("b.safetensors", 2),
        ("c.safetensors:-1", -0.5),
        ("d.safetensors", 3),
    ):
        expected = wan_weights()
        for layer, (down, up) in pairs.items():
            expected[f"{layer}.weight"] += factor * up @ down
        for name, value in with_loras(tmp_path / file).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_several_loras_add_up(tmp_path):
    for name in ("a", "b"):
        torch.save(peft(lora_pairs()), tmp_path / f"{name}.pt")
    both = with_loras(tmp_path / "a.pt", tmp_path / "b.pt:2")
    base, first, second = (
        wan_weights(),
        with_loras(tmp_path / "a.pt"),
        with_loras(tmp_path / "b.pt"),
    )
    for name, value in both.items():
        expected = first[name] + 2 * (second[name] - base[name])
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_loras_are_merged_one_upon_the_other_and_rounded_once(tmp_path):
    given, pairs = [], []
    for name in ("a", "b"):
        pairs.append(lora_pairs())
        given.append(str(tmp_path / f"{name}.pt"))
        torch.save(peft(pairs[-1]), given[-1])
    weights = {name: value.bfloat16() for name, value in wan_weights().items()}
    merged = merge_loras(weights, read_loras(given))
    for layer in LORA_LAYERS:
        added = sum(up @ down for down, up in (each[layer] for each in pairs))
        expected = weights[f"{layer}.weight"].float() + added
        torch.testing.assert_close(merged[f"{layer}.weight"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "path", "scale"),
    [("a.pt", "a.pt", 1), ("a.pt:0.8", "a.pt", 0.8), ("C:/a.pt", "C:/a.pt", 1), ("x:y", "x:y", 1)],
)
def test_a_scale_stands_behind_a_colon(given, path, scale):
    assert split_scale(given) == (Path(path), scale)


def test_a_lora_for_another_base_names_key_and_shapes(tmp_path):
    torch.save(
        peft({"blocks.0.self_attn.q": (torch.ones(4, 96), torch.ones(96, 4))}), tmp_path / "a.pt"
    )
    with pytest.raises(
        CheckpointError,
        match=r"another base.*blocks\.0\.self_attn\.q\.weight.*\(96, 96\).*\(64, 64\)",
    ):
        with_loras(tmp_path / "a.pt")
    torch.save(peft({"blocks.7.ffn.0": (torch.ones(4, 64), torch.ones(128, 4))}), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"another base.*blocks\.7\.ffn\.0\.weight \(128, 64\)"
    ):
        with_loras(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"blocks.0.ffn.0.lora_A.weight": torch.ones(2, 2)}, "no complete pair"),
        (
            {
                "blocks.0.ffn.0.lora_A.weight": torch.ones(2, 8),
                "blocks.0.ffn.0.lora_B.weight": torch.ones(8, 3),
            },
            "multiplied",
        ),
        ({"step": 3}, "no LoRA weights"),
        ([1], "holds list"),
    ],
)
def test_files_that_are_no_lora_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=words):
        read_lora(tmp_path / "a.pt")


class Runs:
    """A pickle of this would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"generator": Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="could run code") as caught:
        read_student(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["student.pt", "student.safetensors"])
@pytest.mark.parametrize("kept", [100, 20_000])
def test_truncated_files_are_refused(tmp_path, name, kept):
    path = tmp_path / name
    save_file(wan_weights(), path) if path.suffix != ".pt" else torch.save(wan_weights(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as caught:
        read_student(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds list"),
        ({}, "holds no weights"),
        ({"state": {"a": 1}}, "'state', which is no tensor"),
        ({"generator": {"a": 1}}, "'a', which is no tensor"),
    ],
)
def test_files_that_are_no_student_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=words):
        read_student(tmp_path / "a.pt")


def test_other_families_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no Wan2\.1 backbone"):
        sizes_of({"unet.weight": torch.ones(1)}, what="it", declared={})
    weights = wan_weights() | {"patch_embedding.weight": torch.ones(64, 36, 1, 2, 2)}
    with pytest.raises(CheckpointError, match="takes 36 latent channels"):
        sizes_of(weights, what="it", declared={})
    config = tmp_path / "config.json"
    for content in ({"model_type": "i2v"}, {"_class_name": "FluxTransformer2DModel"}):
        config.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"give a Wan2\.1 text-to-video model"):
            read_config(config)
    for text, message in (
        ("[1]", "holds no settings by name"),
        ("{", r"cannot be read as a model's config\.json"),
        (
            '{"dim": 64, "num_heads": 0}',
            r"config\.json: num_heads is 0; it must be a whole number, 1 to 1024; give that file",
        ),
        (
            '{"dim": "x", "num_heads": 2}',
            r"config\.json: dim is 'x'; it must be a whole number, 1 to 65536; give that file",
        ),
    ):
        config.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_config(config)


def test_the_first_weight_of_a_wrong_shape_is_named_with_both_shapes():
    weights = wan_weights() | {"blocks.1.self_attn.k.weight": torch.ones(64, 65)}
    source = BackboneSource(what="student s.pt", config=CONFIG, weights=weights)
    with pytest.raises(
        CheckpointError,
        match=r"student s.pt does not.*blocks\.1\.self_attn\.k\.weight is \(64, 65\).*\(64, 64\)",
    ):
        build(source)


def test_missing_and_unknown_weights_are_named():
    weights = wan_weights()
    weights["blocks.0.cross_attn.k_img.weight"] = weights.pop("head.modulation")
    source = BackboneSource(what="it", config=CONFIG, weights=weights)
    with pytest.raises(CheckpointError, match=r"head\.modulation.*blocks\.0\.cross_attn\.k_img"):
        build(source)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_pieces_of_a_folder_are_named(tmp_path, layout):
    with pytest.raises(CheckpointError, match=r"holds no Wan2\.1 model"):
        folder_parts(tmp_path)
    write_transformer(tmp_path, layout)
    lacking = "Wan2.1_VAE.pth" if layout == "original" else "vae, text_encoder, tokenizer"
    with pytest.raises(CheckpointError, match=lacking):
        folder_parts(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_student_may_take_the_place_of_the_backbone(tmp_path, layout):
    write_others(tmp_path, layout)
    folder = folder_parts(tmp_path, *PIECES[1:]).folder
    assert (folder.layout, folder.declared()) == (layout, {})
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model"):
        folder_parts(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write_transformer(tmp_path, "diffusers", shards=3)
    write_others(tmp_path, "diffusers")
    (tmp_path / "transformer" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00003"):
        folder_source(tmp_path)
    index = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="index"):
        folder_source(tmp_path)


def test_unreachable_paths_are_one_sentence(tmp_path):
    for path in (tmp_path / "no.pt", tmp_path, tmp_path / ("x" * 300 + ".pt")):
        with pytest.raises(
            CheckpointError, match=r"no checkpoint at|cannot be reached|is a folder"
        ):
            read_student(path)
    with pytest.raises(
        CheckpointError, match="cannot be reached: File name too long; give 'pocket'"
    ):
        open_model(ModelSpec(name="x" * 300, device="cpu"))


def test_a_golden_student_reads_the_same_from_every_kind_of_file(tmp_path):
    student = read_student(GOLDEN / "lora_base.pt")
    save_file(dict(student.weights), tmp_path / "student.safetensors")
    assert same(read_student(tmp_path / "student.safetensors").weights, student.weights)


def test_diffusers_own_model_takes_our_names_and_computes_the_same(tmp_path):
    """One bidirectional call: a stream's first chunk sees nothing but itself."""
    diffusers = pytest.importorskip("diffusers")
    write_transformer(tmp_path, "diffusers")
    settings = {name: value for name, value in DIFFUSERS.items() if not name.startswith("_")}
    theirs = diffusers.WanTransformer3DModel(**settings)
    written = load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    theirs.load_state_dict(written, strict=True)
    theirs.eval()

    write_others(tmp_path, "diffusers")
    ours = build(folder_source(tmp_path))
    latents, embeds = torch.randn(1, 3, 16, 4, 6), torch.randn(1, 512, 32)
    rollout = Rollout.of(ours, memory_policy("anchor", LENGTHS), SamplerConfig())
    state = rollout.start(ours.text_context(embeds), latents.shape)
    with torch.no_grad():
        found = ours(latents, rollout.times[1], state.text, state.cache.chunk_context(0))
        timestep = torch.tensor([rollout.schedule.timesteps[1]])
        expected = theirs(latents.transpose(1, 2), timestep, embeds, return_dict=False)[0]
    expected = expected.transpose(1, 2)
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("alpha", [float("inf"), float("nan")])
def test_an_alpha_that_is_not_finite_is_shown(tmp_path, alpha):
    alphas = {f"{layer}.alpha": torch.tensor(alpha) for layer in lora_pairs()}
    torch.save({**peft(lora_pairs()), **alphas}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"is {alpha}; it must be a finite number"):
        with_loras(tmp_path / "a.pt")
