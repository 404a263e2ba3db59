"""What training tools put around weights, undone alike for students, VAEs and text encoders."""

import pytest
import torch
from safetensors.torch import save_file
from tests.wan_transformer import CONFIG, wan_weights

from afstream.checkpoints import read_student
from afstream.checkpoints.files import file_weights
from afstream.errors import CheckpointError
from afstream.families.registry import identify
from afstream.families.wan.text import load_text
from afstream.families.wan.vae import load_vae

WEIGHTS = wan_weights()
OTHERS = wan_weights(seed=1)


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


# around any weights
AROUND = {
    "data parallel": lambda weights: under("module.", weights),
    "data parallel, wrapped": lambda weights: under("module.model.", weights),
    "compiled": lambda weights: under("_orig_mod.", weights),
    "sharded": lambda weights: under("_fsdp_wrapped_module.model.", weights),
    "rCM": lambda weights: under("net.", weights),
    "DiffSynth": lambda weights: under("pipe.dit.", weights),
    "Lightning": lambda weights: {
        "state_dict": under("model.", weights),
        "epoch": 3,
        "optimizer_states": [{"state": {}}],
        "hyper_parameters": {"lr": 0.1},
    },
    "DeepSpeed": lambda weights: {"module": under("model.", weights), "ds_version": "0.16"},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {0: {}}}, "step": 3},
}
# around a student alone
ENTRIES = {
    "flat entry": lambda weights: under("generator.model.", weights) | under("critic.", OTHERS),
    "flat average": lambda weights: under("generator.", OTHERS) | under("generator_ema.", weights),
    "shadow": lambda weights: {"generator_ema": {"decay": 0.99, "shadow": weights}},
    "data parallel entry": lambda weights: {"generator": under("module.", weights)},
}


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("wrapper", [*AROUND, *ENTRIES])
def test_students(tmp_path, wrapper):
    path = tmp_path / "s.pt"
    torch.save({**AROUND, **ENTRIES}[wrapper](WEIGHTS), path)
    assert same(read_student(path).weights, WEIGHTS)
    assert identify(path).kind == ("student" if wrapper in ENTRIES else "backbone weights")
    if wrapper == "flat average":
        assert read_student(path).describe() == "s.pt (generator_ema, the moving average)"


SOME = {name: value for name, value in OTHERS.items() if "self_attn" in name}
# of a moving average that lacks weights of the generator beside it
PARTIAL = {
    "some weights": {"generator": WEIGHTS, "generator_ema": SOME},
    "some, wrapped": {
        "generator": under("model._fsdp_wrapped_module.", WEIGHTS),
        "generator_ema": under("model.", SOME),
    },
    "shadow": {"generator": WEIGHTS, "generator_ema": {"decay": 0.99, "shadow": SOME}},
    "flat": under("generator.", WEIGHTS) | under("generator_ema.", SOME),
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_a_partial_moving_average_leaves_the_generator(tmp_path, kind):
    path = tmp_path / "s.pt"
    torch.save(PARTIAL[kind], path)
    student = read_student(path)
    assert same(student.weights, WEIGHTS)
    assert student.describe() == "s.pt (generator, as its moving average is partial)"
    found = identify(path)
    assert (found.entry, found.entries) == ("generator", ("generator_ema", "generator"))
    told = f"has {len(SOME)} of the {len(WEIGHTS)} weights of generator, so generator is taken"
    assert any(told in note for note in found.notes)


def test_a_whole_moving_average_needs_no_buffers(tmp_path):
    path = tmp_path / "s.pt"
    torch.save({"generator": WEIGHTS | {"freqs": torch.ones(2)}, "generator_ema": OTHERS}, path)
    assert read_student(path).entry == "generator_ema"
    assert same(read_student(path).weights, OTHERS)


@pytest.mark.parametrize("wrapper", AROUND)
def test_vaes_and_text_encoders(models, tmp_path, wrapper):
    path, folder = tmp_path / "w.ckpt", models["original"]
    for name in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"):
        weights = file_weights(folder / name)
        torch.save(AROUND[wrapper](weights), path)
        assert same(file_weights(path), weights)
        assert identify(path).kind == identify(folder / name).kind


def test_a_wrapped_vae_and_text_encoder_load(models, tmp_path):
    folder, path = models["original"], tmp_path / "w.safetensors"
    save_file(under("model.", file_weights(folder / "Wan2.1_VAE.pth")), path)
    expected = load_vae(folder / "Wan2.1_VAE.pth").autoencoder.state_dict()
    assert same(load_vae(path).autoencoder.state_dict(), expected)
    text = folder / "models_t5_umt5-xxl-enc-bf16.pth"
    save_file(under("module.", file_weights(text)), path)
    tokenizer = folder / "google" / "umt5-xxl"
    expected = load_text(text, tokenizer).encoder.state_dict()
    assert same(load_text(path, tokenizer).encoder.state_dict(), expected)


def test_several_sets_of_weights_are_refused(tmp_path):
    path = tmp_path / "s.pt"
    torch.save({"ema": WEIGHTS, "model": OTHERS}, path)
    for read in (read_student, identify, file_weights):
        with pytest.raises(CheckpointError, match="holds several sets of weights, ema, model; giv"):
            read(path)


def test_one_weight_under_two_names_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    save_file(WEIGHTS | {"module.head.modulation": torch.zeros(1, 2, CONFIG.dim)}, path)
    with pytest.raises(CheckpointError, match=r"twice, as .*head\.modulation and .*head\.modul"):
        read_student(path)
    save_file(WEIGHTS | {"proj_out.bias": torch.zeros(64)}, path)
    with pytest.raises(CheckpointError, match=r"twice, as .*bias and .*bias; give a file of one"):
        read_student(path)
