"""What inspect says of everything that users hold, alone and together."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_transformer import CONFIG, DIFFUSERS, ORIGINAL, wan_weights, write_transformer

from afstream.checking import check_found
from afstream.checkpoints.findings import Together, base_of, judge, misfit_of
from afstream.checkpoints.kinds import FAMILY
from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.errors import CheckpointError
from afstream.families.opening import open_model
from afstream.families.pocket.model import POCKET_PATH
from afstream.families.registry import identify
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec, StreamConfig
from afstream_cli.app import main
from afstream_cli.inspect import refused

WIDER = replace(CONFIG, dim=128, num_heads=1)
BACKBONE = "diffusion_pytorch_model.safetensors"
PIECES = ("backbone", "text encoder", "tokenizer", "VAE")


def saved(path, weights):
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


def huge(path, shapes, dtype=torch.bfloat16):
    """A safetensors file of real sizes, whose values are a hole in the file."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def shapes_of(config: BackboneConfig):
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Backbone(config).state_dict().items()}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_folder_and_its_parts(models, layout):
    found = identify(models[layout])
    assert (found.kind, found.layout, found.family) == (
        "Wan folder",
        layout,
        "Wan2.1 text-to-video",
    )
    assert found.supported
    assert found.backbone == CONFIG
    assert found.provides == PIECES
    assert not found.missing
    kinds = [part.kind for part in found.parts]
    assert kinds == ["backbone weights", "text encoder", "tokenizer folder", "Wan VAE"]
    assert found.num_parameters == sum(part.num_parameters for part in found.parts)
    assert found.dtypes.keys() == {"float32"}
    assert found.num_bytes > 4 * found.num_parameters
    assert "a plain Wan2.1 makes no good video" in found.notes[0]


@pytest.mark.parametrize(
    ("layout", "piece", "named"),
    [
        ("original", "Wan2.1_VAE.pth", "VAE (Wan2.1_VAE.pth)"),
        ("original", "models_t5_umt5-xxl-enc-bf16.pth", "text encoder (models_t5"),
        ("original", "google", "tokenizer (google/umt5-xxl)"),
        ("original", "diffusion_pytorch_model.safetensors", "backbone"),
        ("diffusers", "vae", "VAE (vae)"),
        ("diffusers", "text_encoder", "text encoder (text_encoder)"),
        ("diffusers", "tokenizer", "tokenizer (tokenizer)"),
        ("diffusers", "transformer", "backbone"),
    ],
)
def test_a_missing_piece_is_named_with_its_place(models, tmp_path, layout, piece, named):
    folder = tmp_path / "model"
    shutil.copytree(models[layout], folder)
    shutil.rmtree(folder / piece) if (folder / piece).is_dir() else (folder / piece).unlink()
    missing = identify(folder).missing
    assert len(missing) == 1
    assert missing[0].piece.startswith(named)
    assert "Wan-AI/Wan2.1-T2V-1.3B" in missing[0].where


def test_parts_are_known_alone(models):
    for layout, place, kind in (
        ("original", "Wan2.1_VAE.pth", "Wan VAE"),
        ("original", "models_t5_umt5-xxl-enc-bf16.pth", "text encoder"),
        ("original", "google/umt5-xxl", "tokenizer folder"),
        ("diffusers", "vae", "Wan VAE"),
        ("diffusers", "text_encoder", "text encoder"),
        ("diffusers", "tokenizer", "tokenizer folder"),
        ("diffusers", "transformer", "backbone weights"),
        ("diffusers", "vae/diffusion_pytorch_model.safetensors", "Wan VAE"),
        ("diffusers", "text_encoder/model.safetensors", "text encoder"),
    ):
        found = identify(models[layout] / place)
        assert (found.kind, found.supported) == (kind, True), place
        assert len(found.missing) == 3


def test_a_missing_package_is_no_fault_of_a_file(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = identify(models["original"] / "models_t5_umt5-xxl-enc-bf16.pth")
    assert (found.kind, found.fault, found.supported) == ("text encoder", "", True)
    assert "it was not checked: Wan models need transformers" in found.notes[0]


def test_students_say_their_entries_and_what_they_lack(student, tmp_path):
    found = identify(student)
    assert found.kind == "student"
    assert (found.entries, found.entry) == (("generator_ema", "generator"), "generator_ema")
    assert [one.piece for one in found.missing] == ["text encoder", "tokenizer", "VAE"]
    path = saved(tmp_path / "last.pt", {"generator": wan_weights(WIDER)})
    found = identify(path)
    assert (found.entry, found.backbone, found.size) == ("generator", WIDER, "2 layers, 128 wide")
    bare = identify(saved(tmp_path / "bare.safetensors", wan_weights(WIDER)))
    assert (bare.kind, bare.entry) == ("backbone weights", "")


@pytest.mark.parametrize(("name", "size"), [("wan-1.3b", "1.3B"), ("wan-14b", "14B")])
def test_sizes_are_named_and_nothing_is_read(tmp_path, name, size):
    """28 GB of backbone that are not there: a hole in the file takes no disk and no time."""
    config = WAN_BACKBONES[name]
    found = identify(huge(tmp_path / "big.safetensors", shapes_of(config)))
    assert (found.size, found.backbone) == (size, config)
    assert found.dtypes == {
        "bfloat16": sum(torch.Size(s).numel() for s in shapes_of(config).values())
    }
    assert {one.where for one in found.missing} == {
        f"Wan-AI/Wan2.1-T2V-{size} on Hugging Face (afstream download {name})"
    }


def strengths(lora):
    return [one.describe() for one in lora.strength_counts]


@pytest.mark.parametrize(("name", "size"), [("wan-1.3b", "1.3B"), ("wan-14b", "14B")])
def test_loras_say_rank_alpha_and_what_they_fit(tmp_path, name, size):
    dim = WAN_BACKBONES[name].dim
    pairs = {}
    for layer, rank in (("blocks.0.self_attn.q", 4), ("blocks.1.cross_attn.o", 8)):
        pairs[f"diffusion_model.{layer}.lora_down.weight"] = torch.zeros(rank, dim)
        pairs[f"diffusion_model.{layer}.lora_up.weight"] = torch.zeros(dim, rank)
    found = identify(saved(tmp_path / "a.safetensors", pairs))
    lora = found.lora
    said = "nothing says alpha, so it is the rank"
    assert strengths(lora) == [f"1 = alpha 4 / rank 4 ({said})", f"1 = alpha 8 / rank 8 ({said})"]
    assert (len(lora.changes), found.fits, found.size) == (2, (size,), size)
    own = {
        f"diffusion_model.{name.removesuffix('.weight')}.alpha": torch.tensor(2.0)
        for name in lora.changes
    }
    lora = identify(saved(tmp_path / "b.safetensors", {**pairs, **own})).lora
    assert strengths(lora) == [
        "0.5 = alpha 2 / rank 4 (the layer's own alpha)",
        "0.25 = alpha 2 / rank 8 (the layer's own alpha)",
    ]
    path = tmp_path / "c.pt"
    torch.save({"generator_lora": pairs, "lora_alpha": 16}, path)
    assert strengths(identify(path).lora) == [
        "4 = alpha 16 / rank 4 (lora_alpha of the file)",
        "2 = alpha 16 / rank 8 (lora_alpha of the file)",
    ]


def test_other_families_are_named_and_not_supported(tmp_path):
    image = wan_weights(WIDER) | {"patch_embedding.weight": torch.ones(128, 36, 1, 2, 2)}
    control = wan_weights(WIDER) | {"patch_embedding.weight": torch.ones(128, 48, 1, 2, 2)}
    small = control | {"head.head.weight": torch.ones(4 * 48, 128)}
    vace = wan_weights(WIDER) | {"vace_blocks.0.before_proj.weight": torch.ones(2)}
    for weights, family in (
        (image, "Wan image-to-video"),
        (control, "Wan Fun-Control"),
        (small, "Wan2.2 5B"),
        (vace, "Wan video editing (VACE)"),
    ):
        found = identify(saved(tmp_path / "a.pt", weights))
        assert (found.family, found.supported, found.provides) == (family, False, ())
    for name, config, family in (
        ("i2v", {**ORIGINAL, "model_type": "i2v"}, "Wan image-to-video"),
        ("ti2v", {**ORIGINAL, "model_type": "ti2v", "in_dim": 48}, "Wan2.2 5B"),
        ("i2v-d", {**DIFFUSERS, "in_channels": 36}, "Wan image-to-video"),
    ):
        layout = "diffusers" if "attention_head_dim" in config else "original"
        write_transformer(tmp_path / name, layout)
        place = tmp_path / name / ("transformer" if layout == "diffusers" else "")
        (place / "config.json").write_text(json.dumps(config))
        found = identify(tmp_path / name)
        assert (found.family, found.supported, found.missing) == (family, False, ())
    (tmp_path / "two" / "high_noise_model").mkdir(parents=True)
    assert identify(tmp_path / "two").family == "Wan2.2 (two backbones)"


def test_vaes_are_told_apart(tmp_path, models):
    tiny = {
        "decoder.1.weight": torch.ones(8, 16, 3, 3),
        "decoder.3.conv.0.weight": torch.ones(8, 16, 3, 3),
        "decoder.7.conv.weight": torch.ones(8, 8, 1, 1),
        "encoder.0.weight": torch.ones(8, 3, 3, 3),
    }
    found = identify(saved(tmp_path / "taew2_1.pth", tiny))
    assert (found.kind, found.family) == ("tiny VAE", FAMILY)
    assert "it has no decoder.8.weight" in found.fault
    tiny["decoder.1.weight"] = torch.ones(8, 48, 3, 3)
    found = identify(saved(tmp_path / "taew2_2.pth", tiny))
    assert (found.kind, found.supported) == ("tiny VAE", False)
    other = dict(load_file(models["diffusers"] / "vae" / "diffusion_pytorch_model.safetensors"))
    other["post_quant_conv.weight"] = torch.ones(48, 48, 1, 1, 1)
    found = identify(saved(tmp_path / "vae.safetensors", other))
    assert (found.kind, found.supported) == ("Wan VAE", False)
    assert "48 latent channels" in found.family


def test_the_pocket_model_and_the_unknown(tmp_path):
    pocket = identify(POCKET_PATH)
    assert (pocket.kind, pocket.provides, pocket.missing) == ("pocket model", PIECES, ())
    unknown = identify(saved(tmp_path / "a.safetensors", {"unet.weight": torch.ones(2)}))
    assert unknown.kind == "unknown"
    assert "unet.weight" in unknown.notes[0]
    assert identify(tmp_path).kind == "unknown"
    with pytest.raises(CheckpointError, match="there is nothing at"):
        identify(tmp_path / "no")


def test_several_are_judged_together(models, student, lora, tmp_path):
    folder = tmp_path / "parts"
    shutil.copytree(models["original"], folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    alone = judge([identify(student), identify(lora)])
    assert [one.piece for one in alone.missing] == ["text encoder", "tokenizer", "VAE"]
    assert alone.remarks == (f"LoRA {lora} fits {student}",)
    complete = judge([identify(path) for path in (folder, student, lora)])
    assert complete == Together(missing=(), remarks=(f"LoRA {lora} fits {student}",))
    misfit = saved(tmp_path / "wider.pt", {"generator": wan_weights(WIDER)})
    given = [identify(folder), identify(misfit), identify(lora)]
    assert not judge(given).remarks
    said = misfit_of(given[2], base_of(given))
    assert "is for another base" in said
    assert "(64, 64)" in said
    assert "(128, 128)" in said
    two = judge([identify(student), identify(misfit)])
    assert "2 students" in two.remarks[0]
    deaf = wan_weights(CONFIG) | {"text_embedding.0.weight": torch.ones(64, 48)}
    given = [identify(models["original"]), identify(saved(tmp_path / "deaf.pt", deaf))]
    found, [said] = check_found(given, StreamConfig())
    assert not found
    assert "text embeddings of 48 values" in said
    assert "writes 32" in said


def test_the_command_shows_all_and_complains_of_each(models, student, lora, tmp_path, capsys):
    folder = models["diffusers"]
    given = [*map(str, (folder, student, lora)), str(tmp_path / "no"), str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *given])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out.count("Wan2.1 text-to-video") == 3
    assert "2 = alpha 8 / rank 4 (lora_alpha of the header): 1 layer" in out
    assert "generator_ema is taken" in out
    assert "together" in out
    assert [line.startswith("afstream: ") for line in err.splitlines()] == [True, True]
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "--json", *given[:3]])
    assert not caught.value.code
    data = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in data["findings"]] == ["Wan folder", "student", "LoRA"]
    assert data["findings"][2]["lora"]["num_weights"] == 1
    assert data["together"]["missing"] == []


def changed(**weights):
    return wan_weights(WIDER) | {
        f"blocks.0.{name}.weight": value for name, value in weights.items()
    }


LESS = {name: value for name, value in wan_weights(WIDER).items() if "cross_attn" not in name}
ALMOST = {
    "gate": (changed(to_gate_compress=torch.ones(128, 128)), "1 unknown, for example blocks.0.to"),
    "less": (LESS, "20 missing, for example blocks.0.cross_attn"),
    "int8": (changed(**{"ffn.0": torch.ones(128, 128, dtype=torch.int8)}), "as int8 without a sc"),
    "shape": (
        changed(**{"ffn.0": torch.ones(128, 12)}),
        "is (128, 12), the model needs (128, 128)",
    ),
    "head": ({n: v for n, v in LESS.items() if "head" not in n}, "it has no head.head.weight of 2"),
}


@pytest.mark.parametrize("kind", ALMOST)
def test_inspect_refuses_what_generate_refuses(models, tmp_path, capsys, kind):
    weights, words = ALMOST[kind]
    path = saved(tmp_path / "s.safetensors", weights)
    wider = tmp_path / "wider"
    shutil.copytree(models["original"], wider)
    write_transformer(wider, "original", config=WIDER)
    found = identify(path)
    assert words in found.fault
    assert not found.supported
    assert not found.provides
    with pytest.raises(CheckpointError) as caught:
        open_model(ModelSpec(name=str(wider), student=str(path), device="cpu"))
    assert str(caught.value) == found.fault
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", str(path)])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "not supported" in said.out


def test_a_folder_with_a_bad_backbone_serves_a_student(models, student, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models["original"], folder)
    save_file(wan_weights() | {"more": torch.ones(1)}, folder / BACKBONE)
    found = identify(folder)
    assert [one.piece for one in found.missing] == ["backbone"]
    assert len(refused([found])) == 1
    assert "1 unknown, for example more" in refused([found])[0]
    assert not refused([found, identify(student)])
    assert not judge([found, identify(student)]).missing
