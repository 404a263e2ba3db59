"""Weights that are not finite: refused where they are loaded or written, file and weight named."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_transformer import CONFIG

from afstream.checkpoints.finite import check_finite, is_finite
from afstream.errors import CheckpointError
from afstream.families.pocket.facts import POCKET_PATH
from afstream.families.pocket.model import load_parts
from afstream_cli.app import main

NAN, INF = float("nan"), float("inf")
LAYER = "blocks.0.self_attn.q"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("odd", [NAN, INF, -INF])
@pytest.mark.parametrize("where", [0, 17, 99])
def test_one_value_among_many_is_found(dtype, odd, where):
    value = torch.linspace(-1, 1, 100).to(dtype)
    assert is_finite(value)
    value[where] = odd
    assert not is_finite(value)
    with pytest.raises(CheckpointError, match=r"^FILE of b has values in b that are no finite"):
        check_finite({"a": torch.ones(3), "b": value}.items(), lambda name: f"FILE of {name}")


def test_the_largest_numbers_are_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert is_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))
    check_finite({"none": torch.ones(0), "whole": torch.ones(2, dtype=torch.int8)}.items(), str)


def lora(path, value=1.0, **more):
    pair = {
        f"{LAYER}.lora_A.weight": torch.full((4, CONFIG.dim), value),
        f"{LAYER}.lora_B.weight": torch.ones(CONFIG.dim, 4),
    }
    save_file(pair | more, path)
    return path


@pytest.fixture
def complaint(models, tmp_path, capsys):
    """A command that must be refused and leave nothing; gives back what it says."""
    (tmp_path / "t.txt").write_text("0:00 a red star drifts left\n")

    def run(command, model, *added):
        out = tmp_path / "out.mp4"
        given = {
            "convert": ("convert", model, out, *added, "-q"),
            "generate": (
                *("generate", "--model", model, "-p", tmp_path / "t.txt", "-o", out, "-q", *added),
                *("--size", "32x32", "--duration", "9f", "--device", "cpu"),
            ),
        }[command]
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, given)))
        assert caught.value.code == 2
        assert not out.exists()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return run


@pytest.mark.parametrize("command", ["generate", "convert"])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", f"{LAYER}.weight"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
        ("text_encoder/model.safetensors", "encoder.final_layer_norm.weight"),
    ],
)
def test_every_part_of_a_folder(complaint, models, tmp_path, command, file, name):
    folder = tmp_path / "folder"
    shutil.copytree(models["diffusers"], folder)
    weights = load_file(folder / file)
    theirs = name.replace("self_attn.q", "attn1.to_q")
    weights[theirs].view(-1)[-1] = NAN
    save_file(weights, folder / file, {"format": "pt"})
    said = complaint(command, folder)
    assert str(folder / file.split("/")[0]) in said
    assert f"has values in {name} that are no finite numbers" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_loras_that_are_not_finite_or_make_what_is_not(complaint, models, tmp_path, command):
    bad = lora(tmp_path / "nan.safetensors", NAN)
    said = complaint(command, models["original"], "--lora", bad)
    assert f"LoRA {bad} has values in {LAYER}.weight that are no finite numbers" in said
    good = lora(tmp_path / "good.safetensors")
    said = complaint(command, models["original"], "--lora", f"{good}:1e38")
    assert f"with LoRA {good.name}:1e+38 added has values in {LAYER}.weight" in said
    for scale in ("nan", "inf", "-inf", "1e400"):
        said = complaint(command, models["original"], "--lora", f"{good}:{scale}")
        assert f"the scale of LoRA {good} is" in said


def test_a_pocket_model(tmp_path):
    from afstream.checkpoints.files import read_metadata

    weights = load_file(POCKET_PATH)
    name = next(name for name in weights if name.startswith("backbone."))
    weights[name].view(-1)[0] = INF
    save_file(weights, tmp_path / "p.safetensors", read_metadata(POCKET_PATH))
    with pytest.raises(CheckpointError, match=f"p.safetensors has values in {name} that are no"):
        load_parts(tmp_path / "p.safetensors")
