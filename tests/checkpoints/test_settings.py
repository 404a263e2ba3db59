"""Whatever a settings file says: a model, or one sentence with file, field, value and remedy."""

import json
import shutil
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from afstream.checkpoints import read_lora, read_loras
from afstream.checkpoints.configs import BackboneFile, TextEncoderFile, VaeFile
from afstream.checkpoints.manifest import Manifest
from afstream.errors import AfstreamError, CheckpointError, ConfigError
from afstream.families.opening import open_model
from afstream.families.registry import identify
from afstream.families.wan.convert import prepare
from afstream.spec import ModelSpec
from afstream_cli.app import main

FILES = {
    "transformer/config.json": BackboneFile,
    "vae/config.json": VaeFile,
    "text_encoder/config.json": TextEncoderFile,
}
ODD = [
    1e30,
    -1,
    0,
    1,
    2,
    3,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "x\n",
    "\ud800",
]
VALUES = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """A folder of diffusers' layout, and the same converted, to spoil and mend."""
    root = tmp_path_factory.mktemp("settings")
    shutil.copytree(models["diffusers"], root / "diffusers")
    prepare(ModelSpec(name=str(models["diffusers"]))).write(root / "converted")
    return root


def one_sentence(call):
    """What a call complains of, empty when it works; anything but a sentence fails."""
    try:
        call()
    except AfstreamError as error:
        said = str(error)
    else:
        return ""
    assert said.isprintable()
    assert 20 < len(said) < 600
    return said


def opens(folder):
    """Open a model, encode a prompt and decode a latent frame."""
    model = open_model(ModelSpec(name=str(folder), device="cpu"))
    model.text.encode(["a red star"])
    model.vae.decode(torch.zeros(1, 1, 16, 4, 4), None)


def spoiled(path, change):
    """Whatever a folder says while a settings file of it is changed."""
    content = path.read_text()
    folder = path.parent if path.name == "afstream.json" else path.parent.parent
    try:
        path.write_text(json.dumps({**json.loads(content), **change}))
        said = one_sentence(partial(opens, folder))
        for place in (folder, path.parent):
            one_sentence(partial(identify, place))
    finally:
        path.write_text(content)
    return said


def aliases(model):
    return [info.alias or name for name, info in model.model_fields.items()]


@pytest.mark.parametrize("file", FILES)
def test_any_value_in_any_field_is_a_model_or_one_sentence(whole, file):
    path = whole / "diffusers" / file
    names = sorted({*json.loads(path.read_text()), *aliases(FILES[file])})

    @settings(max_examples=60)
    @given(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=2))
    def fuzz(change):
        spoiled(path, change)

    fuzz()
    assert spoiled(path, {}) == ""


def test_any_value_in_any_field_of_a_manifest(whole):
    path = whole / "converted" / "afstream.json"
    sizes = json.loads(path.read_text())["backbone"]
    inner = st.dictionaries(st.sampled_from(sorted(sizes)), VALUES, max_size=2)
    changes = st.dictionaries(st.sampled_from(aliases(Manifest)), VALUES, max_size=2)

    @settings(max_examples=60)
    @given(changes, inner)
    def fuzz(change, size):
        spoiled(path, {"backbone": {**sizes, **size}, **change})

    fuzz()
    assert spoiled(path, {}) == ""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES | st.dictionaries(st.sampled_from(["a", "b\n"]), VALUES))
def test_any_index(tmp_path, names):
    from afstream.checkpoints.shards import shard_files

    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    said = one_sentence(lambda: shard_files(tmp_path, "model"))
    assert str(tmp_path) in said


@pytest.mark.parametrize("command", ["generate", "convert", "inspect"])
@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "transformer",
            {"num_attention_heads": 1e30},
            "num_attention_heads is 1e+30; it must be a whole number, 1 to 1024",
        ),
        (
            "transformer",
            {"num_layers": -2},
            "num_layers is -2; it must be a whole number, 1 to 256",
        ),
        (
            "transformer",
            {"ffn_dim": "128"},
            "ffn_dim is '128'; it must be a whole number, 1 to 65536",
        ),
        (
            "transformer",
            {"eps": float("nan")},
            "eps is nan; it must be a number, above 0 and at most 1",
        ),
        (
            "transformer",
            {"attention_head_dim": True},
            "attention_head_dim is true; it must be a whole",
        ),
        ("transformer", {"_class_name": ["Wan"]}, "_class_name is ['Wan']; it must be a name"),
        ("vae", {"latents_std": [0] * 16}, "latents_std is 0; it must be a number, above 0"),
        ("vae", {"latents_mean": [0, 1]}, "latents_mean is [0, 1]; it must be a list of 16"),
        (
            "vae",
            {"temperal_downsample": [True] * 3},
            "temperal_downsample is true; choose one of false",
        ),
        (
            "text_encoder",
            {"num_heads": 10**9},
            "num_heads is 1000000000; it must be a whole number",
        ),
        (
            "text_encoder",
            {"layer_norm_epsilon": None},
            "layer_norm_epsilon is null; it must be a number",
        ),
    ],
)
def test_the_sentence_names_file_field_value_and_what_is_allowed(
    whole, tmp_path, capsys, command, file, change, words
):
    path = whole / "diffusers" / file / "config.json"
    content = path.read_text()
    (tmp_path / "t.txt").write_text("0:00 a red star drifts left\n")
    folder, out = str(whole / "diffusers"), str(tmp_path / "out")
    given = {
        "generate": ["--model", folder, "-q", "-p", str(tmp_path / "t.txt"), "-o", out],
        "convert": [folder, out, "-q"],
        "inspect": [folder],
    }[command]
    path.write_text(json.dumps({**json.loads(content), **change}))
    try:
        with pytest.raises(SystemExit) as caught:
            main([command, *given])
    finally:
        path.write_text(content)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("afstream: ")
    assert f"{path}: {words}" in said
    assert said.endswith("; give that file as it is published with the model\n")
    assert said.count("\n") == 1


def test_sizes_that_the_weights_contradict_are_named(whole):
    path = whole / "diffusers" / "transformer" / "config.json"
    said = spoiled(path, {"num_layers": 200})
    assert "num_layers is 2 by its weights, but 200 is declared; give files of one model" in said


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lora_alpha": "nan"}, "the alpha of lora_alpha is 'nan'; it must be a finite number"),
        ({"lora_alpha": "much"}, "the alpha of lora_alpha is 'much'; it must be a finite number"),
        ({"lora_adapter_metadata": "{"}, "lora_adapter_metadata is '{'; it must be JSON, settings"),
        ({"lora_adapter_metadata": "[" * 9999}, "it must be JSON, settings by name"),
        ({"lora_adapter_metadata": '{"a.lora_alpha": [1]}'}, "the alpha of lora_alpha is [1]"),
        ({"lora_adapter_metadata": '{"lora_alpha": 1e999}'}, "the alpha of lora_alpha is inf"),
    ],
)
def test_the_metadata_of_a_lora(tmp_path, metadata, words):
    pair = {
        "blocks.0.ffn.0.lora_A.weight": torch.ones(2, 3),
        "blocks.0.ffn.0.lora_B.weight": torch.ones(4, 2),
    }
    save_file(pair, tmp_path / "l.safetensors", metadata)
    with pytest.raises(CheckpointError) as caught:
        read_lora(tmp_path / "l.safetensors")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("alpha", [torch.ones(2), torch.tensor(float("nan"))])
def test_an_alpha_of_a_layer_that_is_no_number(tmp_path, alpha):
    layer = "blocks.0.ffn.0"
    pair = {f"{layer}.lora_A.weight": torch.ones(2, 3), f"{layer}.lora_B.weight": torch.ones(4, 2)}
    save_file({**pair, f"{layer}.alpha": alpha}, tmp_path / "l.safetensors")
    with pytest.raises(
        CheckpointError, match=r"the alpha of blocks\.0\.ffn\.0 is .*must be a finite number"
    ):
        read_lora(tmp_path / "l.safetensors")


@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_a_scale_that_is_no_number(lora, scale):
    with pytest.raises(ConfigError, match=f"the scale of LoRA .* is {scale}; give a number"):
        read_loras([f"{lora}:{scale}"])
