"""UMT5 in one file, as people have it: whatever names it uses, its tokenizer among the weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_folder import comfyui_text, sentencepiece_model

from afstream.errors import CheckpointError
from afstream.families.opening import open_model
from afstream.families.wan.convert import prepare
from afstream.families.wan.text import load_text
from afstream.families.wan.tokenizer import read_tokenizer
from afstream.spec import ModelSpec

ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
PROMPTS = ["a red star drifts left", "over the meadow, at night", ""]
FP8 = torch.float8_e4m3fn


def scaled(weights, scale):
    """Projections in eight bits with a scale of a half each, marked as ComfyUI marks them."""
    made = {}
    for name, value in weights.items():
        if ("SelfAttention." in name and "bias" not in name) or ".attn." in name:
            made[name] = (value * 2).to(FP8)
            made[name.removesuffix(".weight") + scale] = torch.tensor(0.5)
        else:
            made[name] = value
    return made


def rounded(weights):
    """Weights that eight bits hold exactly."""
    return {
        name: value.to(FP8).to(value.dtype) if value.is_floating_point() else value
        for name, value in weights.items()
    }


FORMS = {
    "Wan's names": lambda wan, theirs: wan,
    "Wan's names, scaled": lambda wan, theirs: scaled(wan, ".weight_scale"),
    "transformers' names": lambda wan, theirs: theirs,
    "behind model.": lambda wan, theirs: {f"model.{name}": theirs[name] for name in theirs},
    "ComfyUI's": lambda wan, theirs: comfyui_text(theirs),
    "ComfyUI's, scaled": lambda wan, theirs: {
        **scaled(comfyui_text(theirs), ".scale_weight"),
        "scaled_fp8": torch.zeros(0, dtype=FP8),
    },
    "eight bits": lambda wan, theirs: {
        name: value.to(FP8) if value.ndim == 2 else value for name, value in wan.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_all_forms_of_one_encoder_give_the_same(models, tmp_path, form, suffix):
    wan = rounded(torch.load(models["original"] / ENCODER))
    encoder = models["diffusers"] / "text_encoder" / "model.safetensors"
    weights = FORMS[form](wan, rounded(load_file(encoder)))
    path = tmp_path / f"umt5.{suffix}"
    if suffix == "pth":
        torch.save(weights, path)
    else:
        save_file({name: value.clone() for name, value in weights.items()}, path)
    torch.save(wan, tmp_path / "plain.pth")
    tokenizer = models["original"] / "google" / "umt5-xxl"
    expected = load_text(tmp_path / "plain.pth", tokenizer).encode(PROMPTS)
    assert torch.equal(load_text(path, tokenizer).encode(PROMPTS), expected)


@pytest.fixture
def comfyui(models, tmp_path):
    pytest.importorskip("sentencepiece")
    encoder = load_file(models["diffusers"] / "text_encoder" / "model.safetensors")
    path = tmp_path / "umt5.safetensors"
    save_file(comfyui_text(encoder), path)
    return path


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_sentencepiece_model_gives_the_same_tokens(models, comfyui, tmp_path, where):
    if where == "folder":
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "spiece.model").write_bytes(sentencepiece_model())
    tokenize = read_tokenizer(comfyui if where == "file" else tmp_path / "t")
    plain = read_tokenizer(models["original"] / "google" / "umt5-xxl")
    for prompt in PROMPTS:
        assert tokenize(prompt) == plain(prompt)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(9, dtype=torch.uint8), "cannot be read as a tokenizer; give Wan2.1's own"),
        (torch.zeros(0, dtype=torch.uint8), "give Wan2.1's own tokenizer"),
        (torch.zeros(9), "holds no tokenizer of at most 64 MB, as bytes in spiece_model; give"),
    ],
    ids=["damaged", "empty", "no bytes"],
)
def test_a_bad_sentencepiece_model(comfyui, content, words):
    weights = load_file(comfyui)
    save_file({**weights, "spiece_model": content}, comfyui)
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(comfyui)
    assert words in str(caught.value)


def test_a_sentencepiece_model_of_another_encoder(comfyui):
    with pytest.raises(CheckpointError, match=r"knows \d+ tokens, the text encoder 20"):
        read_tokenizer(comfyui, 20)


def test_the_tokenizer_is_converted_with_its_encoder(models, comfyui, tmp_path):
    folder = Path(shutil.copytree(models["original"], tmp_path / "Wan2.1"))
    (folder / ENCODER).unlink()
    shutil.rmtree(folder / "google")
    spec = ModelSpec(name=str(folder), text_encoder_file=str(comfyui), dtype="float32")
    manifest = prepare(spec).write(tmp_path / "out")
    assert manifest.made_from["text_encoder"] == "umt5.safetensors"
    made = open_model(ModelSpec(name=str(tmp_path / "out"), device="cpu"))
    plain = open_model(ModelSpec(name=str(models["original"]), device="cpu"))
    assert torch.equal(made.text.encode(PROMPTS), plain.text.encode(PROMPTS))


def test_a_folders_own_tokenizer_goes_before_the_files(models, comfyui):
    folder = models["original"]
    from afstream.checkpoints import resolve

    parts = resolve(ModelSpec(name=str(folder), text_encoder_file=str(comfyui)))
    assert parts.tokenizer == folder / "google" / "umt5-xxl"
