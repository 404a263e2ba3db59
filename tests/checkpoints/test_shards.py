"""A model's files in a folder: one, shards with an index or without, variants, torch's own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan_transformer import ORIGINAL, wan_weights

from afstream.checkpoints import read_student, resolve
from afstream.checkpoints.kinds import PIECES
from afstream.checkpoints.shards import folder_weights, shard_files
from afstream.errors import CheckpointError
from afstream.families.registry import identify
from afstream.families.wan.text import load_text
from afstream.spec import ModelSpec

STEM = "diffusion_pytorch_model"
SHARDS = [f"{STEM}-0000{one}-of-00003.safetensors" for one in (1, 2, 3)]


@pytest.fixture
def folder(models, tmp_path):
    """A complete folder, to change."""
    return Path(shutil.copytree(models["original"], tmp_path / "folder"))


def parts_of(folder, *wanted):
    return resolve(ModelSpec(name=str(folder)), wanted or PIECES)


def write(folder, names):
    for index, name in enumerate(names):
        save_file({f"w{index}": torch.tensor([float(index)])}, folder / name)


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        shard_files(folder, STEM)
    assert "\n" not in str(caught.value)
    assert "download" not in str(caught.value)
    return str(caught.value)


def test_shards_without_an_index(tmp_path):
    write(tmp_path, SHARDS)
    assert folder_weights(tmp_path, STEM).keys() == {"w0", "w1", "w2"}
    (tmp_path / SHARDS[1]).unlink()
    assert f"has 3 shards, of which 2 are there; add {SHARDS[1]}" in refusal(tmp_path)
    (tmp_path / SHARDS[0]).unlink()
    said = refusal(tmp_path)
    assert f"has 3 shards, of which 1 is there; add {SHARDS[0]}, {SHARDS[1]}" in said


def test_numbers_of_shards_are_bounded(tmp_path):
    write(tmp_path, [f"{STEM}-00001-of-999999.safetensors"])
    assert "has 999999 shards by the name of" in refusal(tmp_path)


def test_an_index_may_name_a_variant(tmp_path):
    names = [f"{STEM}.fp16-0000{one}-of-00002.safetensors" for one in (1, 2)]
    write(tmp_path, names)
    index = tmp_path / f"{STEM}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"w0": names[0], "w1": names[1]}}))
    assert folder_weights(tmp_path, STEM).keys() == {"w0", "w1"}
    (tmp_path / names[1]).unlink()
    assert f"lacks {names[1]}, which its index names" in refusal(tmp_path)


def test_variants_are_never_mixed(tmp_path):
    write(tmp_path, [f"{STEM}.{one}.safetensors" for one in ("fp16", "fp32")])
    assert f"holds several models, {STEM}.fp16.safetensors, {STEM}.fp32" in refusal(tmp_path)
    write(tmp_path, [f"{STEM}.safetensors"])
    assert [path.name for path in shard_files(tmp_path, STEM)] == [f"{STEM}.safetensors"]


def test_torch_files_are_read_where_there_are_no_others(models, tmp_path):
    source = models["diffusers"]
    folder = Path(shutil.copytree(source, tmp_path / "folder"))
    for place, old, new in (
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
        ("transformer", f"{STEM}.safetensors", f"{STEM}.bin"),
        ("vae", f"{STEM}.safetensors", f"{STEM}.bin"),
    ):
        torch.save(load_file(folder / place / old), folder / place / new)
        (folder / place / old).unlink()
    parts = parts_of(folder)
    assert read_student(parts.place("backbone")).weights.keys() == wan_weights().keys()
    found = load_text(parts.place("text encoder"), parts.place("tokenizer")).encoder.state_dict()
    expected = load_text(source / "text_encoder", source / "tokenizer").encoder.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [part.kind for part in identify(folder).parts] == [
        part.kind for part in identify(source).parts
    ]


def test_the_family_is_told_before_what_is_missing(folder):
    """Wan2.2 5B as it is downloaded: its VAE has another name, and adding ours is no way out."""
    config = {**ORIGINAL, "model_type": "ti2v", "in_dim": 48, "out_dim": 48}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "Wan2.1_VAE.pth").rename(folder / "Wan2.2_VAE.pth")
    for wanted, words in ((PIECES, "not Wan2.1 text"), (PIECES[1:], "whose VAE is not Wan2.1's")):
        with pytest.raises(CheckpointError, match=rf"describes Wan2\.2 5B, {words}"):
            parts_of(folder, *wanted)


def test_another_file_may_be_the_backbone(folder):
    (folder / f"{STEM}.safetensors").rename(folder / "distill_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        parts_of(folder)
    assert str(caught.value).endswith(
        "add what is missing, or give the backbone as the student, if it is in one file"
        " (distill_model.safetensors)"
    )


def test_a_dangling_shard_is_named(folder):
    """As the hub's cache leaves it: links in snapshots/ to blobs/ that were removed."""
    path = folder / f"{STEM}.safetensors"
    path.unlink()
    path.symlink_to("../../blobs/649d")
    for read in (identify, lambda path: read_student(parts_of(path).place("backbone"))):
        with pytest.raises(CheckpointError, match=rf"{STEM}\.safetensors is a link to \.\./"):
            read(folder)
