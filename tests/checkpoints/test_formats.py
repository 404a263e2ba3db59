"""The format of a file is told by its first bytes, and one that is not read is called by name."""

import gzip
import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from tests.wan_transformer import wan_weights

from afstream.checkpoints import read_lora, read_student
from afstream.checkpoints.files import file_weights, read_metadata
from afstream.errors import CheckpointError
from afstream.families.registry import identify

WEIGHTS = {"a.weight": torch.arange(4.0)}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5676070424\n"
# what a file holds, and what is said of it
REFUSED = {
    "empty": (b"", "is empty; download it again"),
    "pointer": (POINTER.encode(), "is a git-lfs pointer, not the file itself; run git lfs pull"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(280), "is a GGUF file"),
    "page": (b"\n<!DOCTYPE html><html>restricted</html>", "is a web page, not the file itself"),
    "error page": (b'<?xml version="1.0"?><Error/>', "is a web page"),
    "index": (b'{"meta": {}, "weight_map": {}}', "is a text, which holds no weights"),
    # an opening brace where a safetensors file has one
    "braces": (b'{"meta":{"a": 1}}', "is a text"),
    "pickle": (pickle.dumps({"a": 1}), "is a bare pickle, which could run code"),
    "gzip": (gzip.compress(b"weights"), "is compressed with gzip; unpack it first"),
    "zeros": (bytes(100), "is neither a safetensors file nor one of torch.save"),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin", "gguf"])
@pytest.mark.parametrize("kind", REFUSED)
def test_every_reader_calls_other_files_by_name(tmp_path, kind, suffix):
    content, words = REFUSED[kind]
    path = tmp_path / f"s.{suffix}"
    path.write_bytes(content)
    for read in (read_student, read_lora, identify, file_weights, read_metadata):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} {words}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.sft", "649d242ba985bb5f", "a.pth", "a.bin", "a.safetensors"])
def test_suffixes_count_for_nothing(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name, {"kind": "known"})
    assert torch.equal(file_weights(tmp_path / name)["a.weight"], WEIGHTS["a.weight"])
    assert read_metadata(tmp_path / name) == {"kind": "known"}
    torch.save(WEIGHTS, tmp_path / name)
    assert torch.equal(file_weights(tmp_path / name)["a.weight"], WEIGHTS["a.weight"])
    assert read_metadata(tmp_path / name) == {}


def test_the_format_before_archives_is_refused_by_name(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"generator": WEIGHTS}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"is in the format of torch before 1\.6.*torch.save"):
        read_student(path)
    # the way out that it names
    torch.save(torch.load(path, weights_only=True), path)
    assert read_student(path).entry == "generator"


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "U16"])
def test_dtypes_that_are_not_read_are_named(tmp_path, dtype):
    path = tmp_path / "mx.safetensors"
    place = {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}
    header = json.dumps({"blocks.0.ffn.0.weight_scale": place}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=f"weight_scale as {dtype}, a dtype that afstream"):
        identify(path)
    torch.save({"a": torch.zeros(2, dtype=torch.uint16)}, path)
    with pytest.raises(CheckpointError, match="holds a as uint16, a dtype that afstream does"):
        identify(path)


def test_a_link_to_nothing_is_named(tmp_path):
    path = tmp_path / "s.safetensors"
    path.symlink_to("../../blobs/649d")
    with pytest.raises(CheckpointError, match=r"s\.safetensors is a link to \.\./\.\./blobs/649d"):
        read_student(path)
    (tmp_path / "student").mkdir()
    with pytest.raises(CheckpointError, match="student is a folder without weights of a"):
        read_student(tmp_path / "student")


def test_a_student_may_be_called_anything(tmp_path):
    save_file(wan_weights(), tmp_path / "student")
    assert read_student(tmp_path / "student").weights.keys() == wan_weights().keys()
