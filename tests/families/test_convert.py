"""Converted folders: bit for bit the same video, whole or absent, and plain safetensors."""

import json
import shutil
import signal
from dataclasses import replace
from typing import Any

import imageio.v3 as iio
import pytest
import torch
from safetensors.torch import load_file
from tests.wan_transformer import CONFIG, wan_weights

from afstream.checkpoints import read_manifest, read_student, safetensors
from afstream.checkpoints.identify import identify
from afstream.checkpoints.safetensors import read_header
from afstream.errors import CheckpointError, OutputError
from afstream.families.opening import open_model
from afstream.families.wan.convert import prepare
from afstream.spec import ModelSpec
from afstream_cli.app import main

SMALL = ("--size", "32x32", "--scale", "1", "--device", "cpu", "-q")
WIDER = replace(CONFIG, dim=128, num_heads=1)


def convert(name, out, **given):
    return prepare(ModelSpec(name=str(name), **given)).write(out)


@pytest.fixture
def generate(tmp_path):
    """Run the command; gives back the pictures' bytes and the record."""

    def run(name, *given):
        (tmp_path / "t.txt").write_text("0:00 a red star drifts left\n")
        out = tmp_path / name
        files = ("-p", tmp_path / "t.txt", "-o", out, "--duration", "9f")
        with pytest.raises(SystemExit) as caught:
            main(["generate", *SMALL, *map(str, (*files, *given))])
        assert not caught.value.code
        pictures = [iio.imread(path).tobytes() for path in sorted(out.glob("*.png"))]
        assert len(set(pictures)) == 9
        return pictures, json.loads(out.with_suffix(".json").read_text())["model"]

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_the_same_video_comes_out(generate, models, student, lora, tmp_path, layout, dtype):
    folder = models[layout]
    added = ("--student", student, "--lora", f"{lora}:0.5", "--lora", f"{lora}:0.25")
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(folder), str(tmp_path / "c"), "--dtype", dtype, *map(str, added)])
    assert not caught.value.code
    expected, _ = generate("a", "--model", folder, "--dtype", dtype, *added)
    pictures, record = generate("b", "--model", tmp_path / "c", "--dtype", dtype)
    assert pictures == expected
    assert record["layout"] == "converted"
    assert record["student"] == "student.pt (generator_ema, the moving average)"
    assert record["loras"] == "lora.safetensors:0.5, lora.safetensors:0.25"
    assert record["made_from"].startswith(f"{layout} ({layout} layout), student.pt")
    plain, _ = generate("p", "--model", folder, "--dtype", dtype)
    assert plain != expected


def test_a_backbone_alone_becomes_a_student(generate, models, tmp_path):
    torch.save({"generator": wan_weights(WIDER)}, tmp_path / "wider.pt")
    manifest = convert(tmp_path / "wider.pt", tmp_path / "alone", dtype="float32")
    assert manifest.parts == ("backbone",)
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        "afstream.json",
        "backbone.safetensors",
    }
    found = identify(tmp_path / "alone")
    assert (found.kind, found.backbone) == ("converted folder", WIDER)
    assert [one.piece for one in found.missing] == [
        "text encoder (text_encoder)",
        "tokenizer (tokenizer)",
        "VAE (vae)",
    ]
    with pytest.raises(CheckpointError, match="backbone alone; give it as the student"):
        open_model(ModelSpec(name=str(tmp_path / "alone"), device="cpu"))
    # the folder says 32 a head and the student 128: its own word wins
    given = ("--model", models["original"], "--student", tmp_path / "alone")
    _, record = generate("v", *given)
    assert record["student"] == "alone (converted from wider.pt (generator))"
    assert read_student(tmp_path / "alone").declared["head_dim"] == 128
    again = convert(tmp_path / "alone", tmp_path / "again", dtype="float32")
    assert again == manifest


def test_converted_folders_are_converted_again(models, student, lora, tmp_path):
    convert(models["original"], tmp_path / "a", student=str(student), dtype="float32")
    convert(tmp_path / "a", tmp_path / "b", loras=(f"{lora}:0.5",), dtype="float32")
    both = {"student": str(student), "loras": (f"{lora}:0.5",), "dtype": "float32"}
    once = convert(models["original"], tmp_path / "c", **both)
    twice = read_manifest(tmp_path / "b")
    assert twice == once
    other = convert(tmp_path / "b", tmp_path / "d", student=str(student), dtype="float32")
    assert "loras" not in other.made_from
    assert other.files == read_manifest(tmp_path / "a").files


def test_another_vae_takes_the_place_of_a_missing_one(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models["original"], folder)
    (folder / "Wan2.1_VAE.pth").unlink()
    manifest = convert(folder, tmp_path / "a", vae=str(models["diffusers"] / "vae"))
    assert manifest.made_from["vae"] == "vae"
    whole = convert(models["original"], tmp_path / "b")
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert manifest.files[vae] == whole.files[vae]


def test_other_libraries_read_the_parts(models, tmp_path):
    diffusers: Any = pytest.importorskip("diffusers")
    transformers: Any = pytest.importorskip("transformers")
    convert(models["original"], tmp_path / "c")
    vae = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / "c" / "vae")
    text = transformers.UMT5EncoderModel.from_pretrained(tmp_path / "c" / "text_encoder")
    expected = load_file(models["diffusers"] / "vae" / "diffusion_pytorch_model.safetensors")
    for name, value in vae.state_dict().items():
        assert torch.equal(value.to(torch.bfloat16), expected[name].to(torch.bfloat16))
    expected = load_file(models["diffusers"] / "text_encoder" / "model.safetensors")
    shared = text.state_dict()["shared.weight"].to(torch.bfloat16)
    assert torch.equal(shared, expected["shared.weight"].to(torch.bfloat16))
    assert not list((tmp_path / "c").rglob("*.bin"))


def test_loading_a_converted_folder_renames_and_converts_nothing(models, tmp_path, monkeypatch):
    convert(models["original"], tmp_path / "c", dtype="bfloat16")
    on_disk = load_file(tmp_path / "c" / "backbone.safetensors")
    found = read_student(tmp_path / "c").weights
    assert list(found) == list(read_header(tmp_path / "c" / "backbone.safetensors").places)
    assert all(torch.equal(found[name], on_disk[name]) for name in on_disk)
    assert {value.dtype for value in found.values()} == {torch.bfloat16}

    def refuse(name):
        raise AssertionError(name)

    monkeypatch.setattr("afstream.checkpoints.wrappers.wan_name", refuse)
    open_model(ModelSpec(name=str(tmp_path / "c"), device="cpu", dtype="bfloat16"))


def test_inspect_compares_sizes_and_on_request_contents(models, tmp_path, capsys):
    out = tmp_path / "c"
    convert(models["original"], out)
    path = out / "vae" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()

    def inspect(*given):
        with pytest.raises(SystemExit) as caught:
            main(["inspect", str(out), *given])
        return caught.value.code or 0, capsys.readouterr().err

    assert inspect("--contents") == (0, "")
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert inspect() == (0, "")
    code, said = inspect("--contents")
    assert code == 2
    assert "vae/diffusion_pytorch_model.safetensors differ from afstream.json" in said


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, signal.SIGTERM, OSError(28, "No space left on device")], ids=repr
)
def test_an_interruption_leaves_nothing(models, tmp_path, monkeypatch, capsys, stop):
    calls = []

    def write(path, tensors, **given):
        calls.append(path)
        if len(calls) == 2:
            if isinstance(stop, OSError):
                raise stop
            signal.raise_signal(stop)
        return safetensors.write_safetensors(path, tensors, **given)

    monkeypatch.setattr("afstream.families.wan.convert.write_safetensors", write)
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(models["original"]), str(tmp_path / "c"), "-q"])
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err
    if not isinstance(stop, OSError):
        assert caught.value.code == 128 + stop
    else:
        assert caught.value.code == 2
        assert "(no space left on device); choose another folder" in said


def test_a_disk_that_is_too_small_is_told_first(models, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(OutputError, match=r"needs 0\.0 GB and 0\.0 GB are free"):
        convert(models["original"], tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["file", "folder", "link"])
def test_nothing_is_replaced(models, tmp_path, taken):
    out = tmp_path / "c"
    if taken == "file":
        out.write_text("mine")
    elif taken == "folder":
        out.mkdir()
        (out / "mine").touch()
    else:
        out.symlink_to("nowhere")
    with pytest.raises(OutputError, match="is there already"):
        convert(models["original"], out)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_filled(models, tmp_path):
    (tmp_path / "c").mkdir()
    convert(models["original"], tmp_path / "c")
    assert identify(tmp_path / "c").supported
