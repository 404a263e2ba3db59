"""Bad files through the commands: one clear sentence each, and nothing half-made."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_transformer import DIFFUSERS, ORIGINAL, wan_weights

from afstream_cli.app import main

COMMANDS = ("generate", "inspect", "convert")
# what the text encoder and the VAE of the folders are called
VAE = "Wan2.1_VAE.pth"
TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
BACKBONE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def complaint(tmp_path, capsys):
    """Run a command that must fail; gives back its sentence, and sees that nothing is left."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "t.txt").write_text("0:00 a red star drifts left\n")

    def run(command, model, *added):
        out = work / "out"
        given = [str(one) for one in (model, *added)]
        if command == "generate":
            given = ["--model", *given, "-q", "-p", str(tmp_path / "t.txt"), "-o", str(out)]
            given += ["--size", "32x32", "--device", "cpu", "--duration", "9f"]
        elif command == "convert":
            given = [given[0], str(out), *given[1:], "-q"]
        else:
            given = [one for one in given if not one.startswith("--")]
        with pytest.raises(SystemExit) as caught:
            main([command, *given])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("afstream: ")
        assert said.count("\n") == 1
        assert said.endswith("\n")
        if command == "generate" and out.exists():
            # the folder of its pictures, empty; it is made before the model's files are read
            out.rmdir()
        assert not list(work.iterdir())
        return said

    return run


@pytest.fixture
def folder(models, tmp_path):
    """A complete folder, to spoil."""
    return Path(shutil.copytree(models["original"], tmp_path / "folder"))


class Runs:
    """A pickle of this would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def cut(path, kept):
    path.write_bytes(path.read_bytes()[:kept])


def safetensors_without_header(path):
    save_file(wan_weights(), path)
    cut(path, 200)


def safetensors_without_its_end(path):
    save_file(wan_weights(), path)
    cut(path, path.stat().st_size - 1000)


def safetensors_too_long(path):
    save_file(wan_weights(), path)
    path.write_bytes(path.read_bytes() + b"more")


def pt_without_its_end(path):
    torch.save({"generator": wan_weights()}, path)
    cut(path, path.stat().st_size - 1000)


def pt_of_code(path):
    torch.save({"generator": Runs(path.with_name("ran"))}, path)


def bare_pickle_of_code(path):
    import pickle

    path.write_bytes(pickle.dumps({"generator": Runs(path.with_name("ran"))}))


UNREADABLE = {
    "header-cut": ("s.safetensors", safetensors_without_header, "its header is cut short"),
    "data-cut": ("s.safetensors", safetensors_without_its_end, "it is cut short: it has"),
    "too-long": ("s.safetensors", safetensors_too_long, "it is too long: it has"),
    "pt-cut": ("s.pt", pt_without_its_end, "it is cut short, or not what torch.save writes"),
    "text": ("s.pt", lambda path: path.write_text("hello"), "is a text"),
    "code": ("s.pt", pt_of_code, "it holds Python objects that could run code"),
    "bare-code": ("s.pt", bare_pickle_of_code, "is a bare pickle, which could run"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_damaged_files(complaint, models, tmp_path, command, kind):
    name, make, words = UNREADABLE[kind]
    path = tmp_path / name
    make(path)
    option = "--student" if kind != "data-cut" else "--lora"
    given = (path,) if command == "inspect" else (models["original"], option, path)
    said = complaint(command, *given)
    assert str(path) in said
    assert words in said
    assert "give a .safetensors file or a .pt file of tensors" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("piece", [VAE, TEXT, BACKBONE])
def test_a_damaged_piece_of_a_folder(complaint, folder, command, piece):
    cut(folder / piece, (folder / piece).stat().st_size // 2)
    said = complaint(command, folder)
    assert piece in said
    assert "cut short" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
@pytest.mark.parametrize("layout", ["original", "diffusers", "converted"])
def test_each_missing_piece(complaint, models, tmp_path, capsys, command, layout):
    source = models["diffusers" if layout == "diffusers" else "original"]
    if layout == "converted":
        with pytest.raises(SystemExit):
            main(["convert", str(source), str(tmp_path / "made"), "-q"])
        source = tmp_path / "made"
    pieces = {
        "original": (VAE, TEXT, "google/umt5-xxl", BACKBONE),
        "diffusers": ("vae", "text_encoder", "tokenizer", "transformer"),
        "converted": ("vae", "text_encoder", "tokenizer", "backbone.safetensors", "afstream.json"),
    }[layout]
    for piece in pieces:
        folder = tmp_path / "one"
        shutil.copytree(source, folder)
        path = folder / piece
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        said = complaint(command, folder)
        assert f"({layout} layout) lacks" in said
        assert (piece if piece != BACKBONE else "diffusion_pytorch_model*") in said
        assert "add what is missing" in said
        shutil.rmtree(folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_shard(complaint, folder, command):
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": BACKBONE, "b": shard}}
    (folder / f"{BACKBONE}.index.json").write_text(json.dumps(index))
    said = complaint(command, folder)
    assert f"lacks {shard}, which its index names" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({**ORIGINAL, "model_type": "i2v"}, "Wan image-to-video"),
        ({**ORIGINAL, "model_type": "ti2v", "in_dim": 48}, "Wan2.2 5B"),
        ({**ORIGINAL, "model_type": "vace"}, "Wan video editing (VACE)"),
        ({**DIFFUSERS, "in_channels": 36}, "Wan image-to-video"),
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
    ],
)
def test_a_folder_of_another_family(complaint, folder, command, config, family):
    (folder / "config.json").write_text(json.dumps(config))
    said = complaint(command, folder)
    assert f"describes {family}, not Wan2.1 text-to-video" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_a_folder_of_two_backbones(complaint, folder, command):
    (folder / "high_noise_model").mkdir()
    said = complaint(command, folder)
    assert "describes Wan2.2 (two backbones), not Wan2.1 text-to-video; give a Wan2.1" in said
    assert "or a student of one with --student beside this folder" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_a_student_of_another_family(complaint, models, tmp_path, command):
    path = tmp_path / "s.safetensors"
    save_file({"unet.weight": torch.ones(1)}, path)
    said = complaint(command, models["original"], "--student", path)
    assert (
        f"student {path} is no Wan2.1 backbone: its names are of an unknown layout, such as unet"
        in said
    )
    save_file({"blocks.0.ffn.0.weight": torch.ones(1)}, path)
    said = complaint(command, models["original"], "--student", path)
    assert "is no Wan2.1 backbone: it has no patch_embedding.weight of 5 axes" in said
    image = wan_weights() | {"patch_embedding.weight": torch.ones(64, 36, 1, 2, 2)}
    save_file(image, path)
    said = complaint(command, models["original"], "--student", path)
    assert "takes 36 latent channels and gives 16, so it is Wan image-to-video" in said


def test_inspect_names_what_is_nothing(complaint, tmp_path):
    path = tmp_path / "s.safetensors"
    save_file({"unet.weight": torch.ones(1)}, path)
    assert "was not recognised: it holds weights of no kind that is known here, such as unet" in (
        complaint("inspect", path)
    )
    assert "holds no Wan2.1 model; give a folder" in complaint("inspect", tmp_path / "work")


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_the_first_three_wrong_shapes_are_named(complaint, models, tmp_path, command):
    names = [
        f"blocks.{index}.{part}.weight" for index in (0, 1) for part in ("ffn.2", "self_attn.k")
    ]
    weights = wan_weights() | {name: torch.ones(64, 65) for name in names}
    torch.save({"generator": weights}, tmp_path / "s.pt")
    said = complaint(command, models["original"], "--student", tmp_path / "s.pt")
    for name, shape in (
        ("blocks.0.self_attn.k", "(64, 64)"),
        ("blocks.0.ffn.2", "(64, 128)"),
        ("blocks.1.self_attn.k", "(64, 64)"),
    ):
        assert f"{name}.weight is (64, 65), the model needs {shape}" in said
    assert "blocks.1.ffn.2" not in said
    assert "; 1 more differ; give weights of this model's size" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_missing_and_unknown_names(complaint, models, tmp_path, command):
    weights = wan_weights()
    del weights["blocks.1.self_attn.k.weight"], weights["head.modulation"]
    torch.save(weights | {"blocks.0.new.weight": torch.ones(1)}, tmp_path / "s.pt")
    said = complaint(command, models["original"], "--student", tmp_path / "s.pt")
    assert "2 missing, for example blocks.1.self_attn.k.weight" in said
    assert "1 unknown, for example blocks.0.new.weight" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_a_lora_for_another_base(complaint, models, tmp_path, command):
    path, layer = tmp_path / "l.pt", "blocks.0.self_attn.q"
    pair = {
        f"{layer}.lora_A.weight": torch.ones(4, 96),
        f"{layer}.lora_B.weight": torch.ones(96, 4),
    }
    torch.save(pair, path)
    said = complaint(command, models["original"], "--lora", f"{path}:0.5")
    assert f"LoRA {path} is for another base: it changes {layer}.weight as (96, 96)" in said
    assert "but the model has (64, 64)" in said


@pytest.mark.parametrize("command", ["generate", "convert"])
@pytest.mark.parametrize("part", ["vae", "text"])
def test_parts_of_another_model(complaint, folder, command, part):
    if part == "vae":
        weights = torch.load(folder / VAE, weights_only=True)
        weights["decoder.conv1.weight"] = torch.ones(3, 16, 3, 3, 3)
        torch.save(weights, folder / VAE)
        said = complaint(command, folder)
        assert (
            f"VAE {folder / VAE} does not fit the model: decoder.conv_in.weight is (3, 16" in said
        )
        return
    torch.save(wan_weights(), folder / TEXT)
    said = complaint(command, folder)
    assert f"{folder / TEXT} is no UMT5 encoder of Wan2.1" in said


def unreachable(tmp_path):
    """Paths that lead nowhere, by what is wrong with them."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.pt").mkdir()
    return {
        "absent": tmp_path / "no.pt",
        "dangling": tmp_path / "link",
        "through a file": tmp_path / "file" / "s.pt",
        "too long": tmp_path / ("x" * 300 + ".pt"),
        "folder": tmp_path / "folder.pt",
    }


@pytest.mark.parametrize("kind", ["absent", "dangling", "through a file", "too long", "folder"])
def test_paths_that_lead_nowhere(complaint, models, tmp_path, kind):
    path = unreachable(tmp_path)[kind]
    for command in ("generate", "convert"):
        for option in ("--student", "--lora", "--vae"):
            assert str(path) in complaint(command, models["original"], option, path)
        assert str(path) in complaint(command, path)
    assert str(path) in complaint("inspect", path)


def test_folders_in_the_place_of_files(complaint, folder):
    for piece in (VAE, TEXT, BACKBONE):
        (folder / piece).unlink()
        (folder / piece).mkdir()
        for command in ("generate", "convert"):
            assert piece in complaint(command, folder)


def test_an_out_that_leads_nowhere(complaint, models, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(SystemExit) as caught:
            main(["convert", str(models["original"]), str(out), "-q"])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"afstream: cannot write {out}")
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as a model's afstream.json"),
        ('{"format": 2, "family": "Wan2.1 text-to-video"}', "is of format 2"),
        (
            '{"format": 1, "family": "Wan2.1 text-to-video"}',
            "afstream.json: dtype is missing; convert the model again",
        ),
    ],
)
def test_a_damaged_manifest(complaint, models, tmp_path, content, words):
    with pytest.raises(SystemExit):
        main(["convert", str(models["original"]), str(tmp_path / "made"), "-q"])
    (tmp_path / "made" / "afstream.json").write_text(content)
    for command in COMMANDS:
        assert words in complaint(command, tmp_path / "made")
    said = complaint("generate", models["original"], "--student", tmp_path / "made")
    assert words in said


def test_additions_that_need_a_folder(complaint, tmp_path, student):
    said = complaint("convert", student, "--student", student)
    assert "needs a Wan2.1 folder as IN" in said


def test_a_tiny_vae_is_not_copied(complaint, models, tmp_path):
    path = tmp_path / "taew2_1.safetensors"
    names = ("decoder.1.weight", "decoder.3.conv.0.weight")
    save_file({name: torch.ones(8, 16, 3, 3) for name in names}, path)
    for given in ("tiny", path):
        said = complaint("convert", models["original"], "--vae", given)
        assert "is a tiny one, which is not copied" in said


def test_a_file_of_a_part_is_no_student(complaint, models, tmp_path):
    weights = load_file(models["diffusers"] / "vae" / BACKBONE)
    save_file(weights, tmp_path / "vae.safetensors")
    for command in ("generate", "convert"):
        said = complaint(command, models["original"], "--student", tmp_path / "vae.safetensors")
        assert "is no Wan2.1 backbone: it holds a Wan VAE; give" in said
