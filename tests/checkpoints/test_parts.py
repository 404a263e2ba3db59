"""Where the pieces of a model are found: every layout, whatever lies around or is given."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_folder import comfyui_text, write_comfyui, write_hub
from tests.wan_transformer import CONFIG, DIFFUSERS, ORIGINAL, wan_weights, write_transformer

from afstream.checking import check_found
from afstream.checkpoints import read_student, resolve
from afstream.checkpoints.findings import PLAIN, faults_of, judge
from afstream.checkpoints.identify import identify
from afstream.checkpoints.kinds import PIECES
from afstream.errors import CheckpointError
from afstream.families.opening import open_model
from afstream.families.registry import family_of
from afstream.families.registry import identify as identify_any
from afstream.memory_plan.found import fit_found
from afstream.spec import ModelSpec, StreamConfig

# its heads are as wide as Wan2.1's, which no single file says
WIDER = replace(CONFIG, dim=128, num_heads=1)
ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
VAE = "Wan2.1_VAE.pth"
STEM = "diffusion_pytorch_model.safetensors"
BESIDE = PIECES[1:]


@pytest.fixture
def folder(models, tmp_path):
    """A complete folder of the original layout, to change."""
    return Path(shutil.copytree(models["original"], tmp_path / "Wan2.1"))


@pytest.fixture
def comfyui(models, tmp_path):
    return write_comfyui(tmp_path / "models", models["diffusers"], wan_weights(WIDER))


@pytest.fixture
def wider(tmp_path):
    path = tmp_path / "wider.safetensors"
    save_file(wan_weights(WIDER), path)
    return path


def spec_of(path, **given):
    texts: dict[str, Any] = {name: str(value) for name, value in given.items()}
    return ModelSpec(name=str(path), **texts)


def parts_of(path, *wanted, **given):
    return resolve(spec_of(path, **given), wanted or PIECES)


def refusal(path, *wanted, **given):
    with pytest.raises(CheckpointError) as caught:
        parts_of(path, *wanted, **given)
    said = str(caught.value)
    assert "\n" not in said
    assert "download" not in said.replace("as it is downloaded", "")
    return said


def opened(path, **given):
    return open_model(replace(spec_of(path, **given), device="cpu"))


def same_prompts(one, other):
    prompts = ["a red star drifts left"]
    return torch.equal(one.text.encode(prompts), other.text.encode(prompts))


def files_of(weights, path):
    save_file({name: value.clone() for name, value in weights.items()}, path)
    return path


@pytest.mark.parametrize(
    ("piece", "old", "new"),
    [("text encoder", ENCODER, "umt5-xxl-enc.safetensors"), ("VAE", VAE, "wan_vae.safetensors")],
)
def test_a_file_under_another_name_is_taken_and_told(models, folder, piece, old, new):
    files_of(torch.load(folder / old), folder / new)
    (folder / old).unlink()
    assert parts_of(folder).place(piece) == folder / new
    found = identify(folder)
    assert f"{new} is taken as the {piece}" in found.notes
    assert found.provides == PIECES
    model = opened(folder)
    assert model.details[{"VAE": "vae", "text encoder": "text_encoder"}[piece]] == new
    assert same_prompts(model, opened(models["original"]))


@pytest.mark.parametrize(
    ("piece", "name", "option"),
    [("text encoder", ENCODER, "--text-encoder-file"), ("VAE", VAE, "--vae")],
)
def test_of_several_files_none_is_taken(folder, piece, name, option):
    weights = torch.load(folder / name)
    (folder / name).unlink()
    for one in ("a.safetensors", "b.safetensors"):
        files_of(weights, folder / one)
    said = refusal(folder)
    assert f"several files for the {piece}: a.safetensors, b.safetensors; choose" in said
    assert said.endswith(option)
    found = identify(folder)
    assert faults_of([found]) == [said]
    chosen = identify(folder / "b.safetensors")
    assert faults_of([found, chosen]) == []
    assert not judge([found, chosen]).missing
    key = "vae" if piece == "VAE" else "text_encoder_file"
    given = {key: folder / "b.safetensors"}
    assert parts_of(folder, **given).place(piece) == folder / "b.safetensors"


def test_the_published_name_goes_first(folder):
    files_of(torch.load(folder / ENCODER), folder / "another.safetensors")
    assert parts_of(folder).place("text encoder") == folder / ENCODER
    assert not any("another" in note for note in identify(folder).notes)


def without_biases(encoder):
    """T5's: one bias of positions for all layers."""
    return {
        name: value
        for name, value in encoder.items()
        if "relative_attention_bias" not in name or ".block.0." in name
    }


def test_t5_is_no_umt5(models, folder):
    encoder = load_file(models["diffusers"] / "text_encoder" / "model.safetensors")
    files_of(without_biases(encoder), folder / "t5xxl_fp16.safetensors")
    assert identify(folder / "t5xxl_fp16.safetensors").kind == "unknown"
    (folder / ENCODER).unlink()
    said = refusal(folder)
    assert f"lacks {ENCODER}; add what is missing, or give the text encoder with --text-enc" in said


def test_a_text_encoder_file_takes_the_place_of_the_folders(models, folder, tmp_path):
    other = files_of(torch.load(folder / ENCODER), tmp_path / "t5.safetensors")
    (folder / ENCODER).unlink()
    assert same_prompts(opened(folder, text_encoder_file=other), opened(models["original"]))
    both = [identify(folder), identify(other)]
    assert not judge(both).missing
    found, said = check_found(both, StreamConfig())
    assert not said
    assert fit_found(both, found[0].config, found[0].model) is not None
    found, said = check_found(both[:1], StreamConfig())
    assert not found
    assert f"lacks {ENCODER}" in said[0]
    assert fit_found(both[:1], StreamConfig(), None) is None


# ComfyUI


def test_comfyuis_folder(models, comfyui):
    found = identify(comfyui)
    assert (found.kind, found.layout, found.backbone) == ("Wan folder", "ComfyUI", WIDER)
    assert found.provides == PIECES
    assert "diffusion_models/wan2.1_t2v.safetensors is taken as the backbone" in found.notes
    assert "vae/wan_2.1_vae.safetensors is taken as the VAE" in found.notes
    parts = parts_of(comfyui)
    assert parts.tokenizer == parts.place("text encoder")
    assert read_student(parts.place("backbone")).weights.keys() == wan_weights(WIDER).keys()
    # the folder around it is entered
    assert parts_of(comfyui.parent).folder.path == comfyui


def test_comfyuis_folder_opens(models, comfyui):
    pytest.importorskip("sentencepiece")
    model = opened(comfyui)
    assert model.details["text_encoder"] == "umt5_xxl_fp16.safetensors"
    assert model.details["vae"] == "wan_2.1_vae.safetensors"
    assert model.details["backbone"].startswith("wan2.1_t2v.safetensors; ")
    assert same_prompts(model, opened(models["diffusers"]))


def test_old_names_of_comfyuis_folders_and_folders_inside(comfyui):
    (comfyui / "diffusion_models").rename(comfyui / "unet")
    (comfyui / "text_encoders").rename(comfyui / "clip")
    (comfyui / "vae" / "wan").mkdir()
    (comfyui / "vae" / "wan_2.1_vae.safetensors").rename(comfyui / "vae" / "wan" / "v.sft")
    assert identify(comfyui).provides == PIECES
    assert parts_of(comfyui).place("VAE") == comfyui / "vae" / "wan" / "v.sft"


def test_files_of_other_models_are_passed_over(models, comfyui):
    encoder = load_file(models["diffusers"] / "text_encoder" / "model.safetensors")
    files_of(without_biases(encoder), comfyui / "text_encoders" / "t5xxl_fp16.safetensors")
    image = wan_weights(WIDER) | {"patch_embedding.weight": torch.ones(128, 36, 1, 2, 2)}
    files_of(image, comfyui / "diffusion_models" / "wan2.1_i2v.safetensors")
    files_of({"conv_out.bias": torch.ones(3)}, comfyui / "vae" / "ae.safetensors")
    (comfyui / "vae" / "notes.txt").write_text("none")
    assert identify(comfyui).provides == PIECES
    assert parts_of(comfyui).folder.missing() == [Path("tokenizer")]


@pytest.mark.parametrize(
    ("piece", "old", "option"),
    [
        ("backbone", "diffusion_models/wan2.1_t2v.safetensors", "--student"),
        ("text encoder", "text_encoders/umt5_xxl_fp16.safetensors", "--text-encoder-file"),
        ("VAE", "vae/wan_2.1_vae.safetensors", "--vae"),
    ],
)
def test_of_comfyuis_several_files_none_is_taken(comfyui, piece, old, option):
    other = Path(old).with_name("other.safetensors")
    shutil.copy(comfyui / old, comfyui / other)
    said = refusal(comfyui)
    assert f"has several files for the {piece}: " in said
    assert said.endswith(f"choose one with {option}")
    for name in (old, str(other)):
        assert name in said
    assert faults_of([identify(comfyui)]) == [said]
    assert faults_of([identify(comfyui), identify(comfyui / other)]) == []
    key = option.removeprefix("--").replace("-", "_")
    assert parts_of(comfyui, **{key: comfyui / other}).place(piece) == comfyui / other


def test_what_comfyuis_folder_lacks_is_named(comfyui, tmp_path):
    text = comfyui / "text_encoders" / "umt5_xxl_fp16.safetensors"
    own = {name: value for name, value in load_file(text).items() if name != "spiece_model"}
    files_of(own, text)
    said = refusal(comfyui)
    assert "(ComfyUI layout) lacks tokenizer; add what is missing, or give with --text-enc" in said
    assert [one.piece for one in identify(comfyui).missing] == ["tokenizer (tokenizer)"]
    text.unlink()
    (comfyui / "text_encoders" / "umt5.gguf").write_bytes(b"version https://git-lfs")
    said = refusal(comfyui)
    assert "lacks text_encoders, tokenizer (and text_encoders/umt5.gguf cannot be read)" in said
    assert said.endswith("or give the text encoder with --text-encoder-file")


def test_a_tiny_vae_of_comfyuis(comfyui):
    (comfyui / "vae_approx").mkdir()
    (comfyui / "vae_approx" / "taew2_1.safetensors").touch()
    found = parts_of(comfyui, vae="tiny").place("VAE")
    assert found == comfyui / "vae_approx" / "taew2_1.safetensors"


# a hub's cache, and folders around models


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_hubs_cache_is_entered(models, tmp_path, layout):
    root = write_hub(tmp_path, models[layout], "Wan-AI--Wan2.1-T2V-1.3B")
    snapshot = root / "snapshots" / "37ec51"
    for given in (snapshot, root / "snapshots", root, tmp_path):
        assert parts_of(given).folder.path == snapshot
        found = identify(given)
        assert (found.path, found.layout) == (snapshot, layout)


def test_the_main_revision_is_entered(models, tmp_path):
    source = models["original"]
    write_hub(tmp_path, source, "a--b", revision="old", main=False)
    root = write_hub(tmp_path, source, "a--b", revision="new")
    assert parts_of(root).folder.path == root / "snapshots" / "new"
    (root / "refs" / "main").write_text("old")
    assert parts_of(root).folder.path == root / "snapshots" / "old"
    for gone in ("gone", "../..", "/"):
        (root / "refs" / "main").write_text(gone)
        said = refusal(root)
        assert f"{root} holds no model itself; give one of those in it: " in said
        assert str(root / "snapshots" / "new") in said
        assert str(root / "snapshots" / "old") in said


def test_of_several_models_in_a_cache_none_is_taken(models, tmp_path):
    one = write_hub(tmp_path, models["original"], "Wan-AI--one")
    other = tmp_path / "models--someone--else" / "snapshots" / "1"
    for name in ("unet", "vae", "text_encoder"):
        (other / name).mkdir(parents=True)
    (other / "model_index.json").write_text("{}")
    (other / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    assert parts_of(tmp_path).folder.path == one / "snapshots" / "37ec51"
    two = write_hub(tmp_path, models["diffusers"], "Wan-AI--two")
    said = refusal(tmp_path)
    for root in (one, two):
        assert str(root / "snapshots" / "37ec51") in said
    with pytest.raises(CheckpointError, match="holds no model itself; give one of those in it"):
        identify(tmp_path)


def test_a_repository_of_comfyuis_files_is_entered(comfyui, tmp_path):
    (tmp_path / "repo").mkdir()
    comfyui.rename(tmp_path / "repo" / "split_files")
    root = write_hub(tmp_path, tmp_path / "repo", "Comfy-Org--Wan")
    found = parts_of(root).folder
    assert (found.layout, found.path.name) == ("ComfyUI", "split_files")


def test_the_way_in_is_named(models, tmp_path):
    around = tmp_path / "around"
    one = Path(shutil.copytree(models["original"], around / "of" / "Wan2.1"))
    said = refusal(around)
    assert said == f"{around} holds no model itself; give {one}, which is one"
    with pytest.raises(CheckpointError) as caught:
        identify(around)
    assert str(caught.value) == said
    other = Path(shutil.copytree(models["diffusers"], around / "more"))
    assert refusal(around).endswith(f"give one of those in it: {other}, {one}")
    assert "holds no Wan2.1 model; give a folder as it is" in refusal(one / "google")


# other families


def of_family(folder, layout, family):
    """The folder of another family: its backbone is not needed, and not there."""
    for path in folder.rglob("diffusion_pytorch_model*"):
        if path.parent.name != "vae":
            path.unlink()
    if family == "a14b":
        names = ("high_noise_model", "low_noise_model") if layout == "original" else SECOND
        for name in names:
            (folder / name).mkdir(exist_ok=True)
        return
    settings, place = (
        (ORIGINAL, folder) if layout == "original" else (DIFFUSERS, folder / "transformer")
    )
    (place / "config.json").write_text(json.dumps({**settings, **FAMILIES[family][layout]}))


SECOND = ("transformer_2",)
FAMILIES = {
    "i2v": {
        "original": {"model_type": "i2v", "in_dim": 36},
        "diffusers": {"in_channels": 36, "image_dim": 1280},
    },
    "vace": {
        "original": {"model_type": "vace"},
        "diffusers": {"_class_name": "WanVACETransformer3DModel"},
    },
    "a14b": {},
}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_another_family_serves_a_student(models, tmp_path, wider, layout, family):
    folder = Path(shutil.copytree(models[layout], tmp_path / "other"))
    of_family(folder, layout, family)
    said = refusal(folder)
    assert f"{folder} describes Wan" in said
    assert said.endswith("or a student of one with --student beside this folder")
    found = identify(folder)
    assert not found.supported
    together = judge([found, identify(wider)])
    assert not together.missing
    assert together.remarks == (
        f"of {folder}, which is {found.family}, the text encoder, tokenizer, VAE are taken: they"
        " are Wan2.1's",
    )
    # alone it stays what it is
    assert judge([found]).remarks == (f"{folder} is not supported",)
    model = opened(folder, student=wider)
    assert model.backbone.config == WIDER
    assert same_prompts(model, opened(models[layout]))


def test_the_vae_of_5b_is_not_taken(folder, wider):
    config = {**ORIGINAL, "model_type": "ti2v", "in_dim": 48, "out_dim": 48}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / VAE).rename(folder.parent / VAE)
    (folder / "Wan2.2_VAE.pth").touch()
    said = refusal(folder, student=wider)
    assert "describes Wan2.2 5B, whose VAE is not Wan2.1's; give Wan2.1's with --vae" in said
    assert "a student of one with --student, and Wan2.1's VAE with --vae, beside" in refusal(folder)
    assert opened(folder, student=wider, vae=folder.parent / VAE).backbone.config == WIDER


# students


@pytest.mark.parametrize("name", ["wan2.2_t2v_high_noise_14B", "Wan2_2-T2V-A14B-LOW", "low-noise"])
def test_one_of_two_backbones_is_noted(models, tmp_path, caplog, name):
    path = files_of(wan_weights(WIDER), tmp_path / f"{name}.safetensors")
    note = f"{name}.safetensors seems to be one of Wan2.2's two backbones"
    assert any(one.startswith(note) for one in identify(path).notes)
    with caplog.at_level(logging.WARNING):
        opened(models["original"], student=path)
    assert [record.getMessage().startswith(note) for record in caplog.records] == [True]
    caplog.clear()
    good = path.rename(tmp_path / "longlive_low.safetensors")
    assert not identify(good).notes
    opened(models["original"], student=good)
    assert not caplog.records


def causal(path):
    config = {**DIFFUSERS, "_class_name": "CausalWanTransformer3DModel", "local_attn_size": -1}
    (path / "transformer" / "config.json").write_text(json.dumps(config))


def test_a_causal_folder_is_a_student(models, tmp_path):
    folder = Path(shutil.copytree(models["diffusers"], tmp_path / "causal"))
    assert PLAIN in identify(folder).notes
    causal(folder)
    found = identify(folder)
    assert found.is_student
    assert PLAIN not in (*found.notes, *judge([found]).remarks)
    assert "backbone" not in opened(folder).details
    assert identify(folder / "transformer").kind == "backbone weights"


@pytest.mark.parametrize("place", ["transformer", "", "shards"])
def test_a_folder_is_a_student(models, tmp_path, place):
    folder = Path(shutil.copytree(models["diffusers"], tmp_path / "causal"))
    causal(folder)
    weights = wan_weights(seed=7)
    if place == "shards":
        (folder / place).mkdir()
        names = sorted(weights)
        for shard in (0, 1):
            part = {name: weights[name] for name in names[shard::2]}
            file = folder / place / f"mine-0000{shard + 1}-of-00002.safetensors"
            files_of(part, file)
        shutil.copy(folder / "transformer" / "config.json", folder / place)
    else:
        write_transformer(folder, "diffusers", weights=weights, shards=3)
        (folder / "transformer" / STEM).unlink()
        causal(folder)
    model = opened(models["original"], student=folder / place)
    backbone: Any = model.backbone
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_folder_without_a_backbone_is_no_student(models):
    folder = models["original"] / "google"
    with pytest.raises(CheckpointError, match="is a folder without weights of a backbone; give"):
        read_student(folder)


# links, names of repositories, ~


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("piece", BESIDE)
def test_a_dangling_link_is_named(models, tmp_path, layout, piece):
    root = write_hub(tmp_path, models[layout], "a--b")
    place = parts_of(root).place(piece)
    files = [place] if place.is_file() else sorted(place.iterdir())
    for file in files:
        blob = file.resolve()
        blob.rename(blob.with_suffix(".gone"))
        for read in (opened, identify):
            with pytest.raises(CheckpointError) as caught:
                read(root)
            assert str(file) in str(caught.value), read
        blob.with_suffix(".gone").rename(blob)


def test_names_of_repositories_get_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "Wan-AI/Wan2.1-T2V-1.3B"
    hint = f"fetch it with `hf download {name} --local-dir Wan2.1-T2V-1.3B`, and give that folder"
    for read in (lambda: family_of(ModelSpec(name=name)), lambda: identify_any(Path(name))):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert str(caught.value).endswith(hint)
    for plain in ("no", "a/b/c", "./Wan2.1", "/a/b"):
        with pytest.raises(CheckpointError) as caught:
            family_of(ModelSpec(name=plain))
        assert "hf download" not in str(caught.value)


def test_a_users_own_folder_is_expanded(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wan").symlink_to(models["original"])
    spec = ModelSpec(name="~/wan", student="~/s.pt", loras=("~/l.pt:2",), vae="~/v.pt")
    assert spec.name == str(tmp_path / "wan")
    assert (spec.student, spec.vae) == (f"{tmp_path}/s.pt", f"{tmp_path}/v.pt")
    assert spec.loras == (f"{tmp_path}/l.pt:2",)
    assert identify_any(Path("~/wan")).provides == PIECES
    assert ModelSpec(name="~other").name == "~other"


def test_comfyuis_text_encoder_beside_a_folder_without_a_tokenizer(models, folder, tmp_path):
    shutil.rmtree(folder / "google")
    encoder = load_file(models["diffusers"] / "text_encoder" / "model.safetensors")
    text = files_of(comfyui_text(encoder), tmp_path / "umt5.safetensors")
    said = refusal(folder)
    assert said.endswith(
        "lacks google/umt5-xxl; add what is missing, or give with --text-encoder-file a file that"
        " holds its tokenizer, as ComfyUI's"
    )
    assert parts_of(folder, text_encoder_file=text).tokenizer == text
    found = identify(text)
    assert found.provides == ("text encoder", "tokenizer")
    assert "uint8" not in found.dtypes
    assert not judge([identify(folder), found]).missing
