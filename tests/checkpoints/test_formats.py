"""The format of a file is told by its first bytes, and one that is not read is called by name."""

import argparse
import datetime
import gzip
import io
import json
import pickle

import numpy as np
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


def save_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["old.pt", "old.safetensors", "old"])
def test_the_format_before_archives_is_read(tmp_path, name):
    shared = torch.arange(12.0)
    content = {"a.weight": shared[:6].view(2, 3), "b.weight": shared[6:].bfloat16()}
    save_old({"generator": content, "step": 3, "config": {"lr": 0.1}}, tmp_path / name)
    student = read_student(tmp_path / name)
    assert student.entry == "generator"
    assert student.weights.keys() == content.keys()
    assert all(torch.equal(student.weights[key], content[key]) for key in content)


@pytest.mark.parametrize("saved", [torch.save, save_old])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"loss": np.float64(0.5)}, "numpy._core.multiarray.scalar"),
        ({"when": datetime.timedelta(1)}, "datetime.timedelta"),
    ],
)
def test_an_object_that_is_not_read_is_named(tmp_path, saved, content, name):
    path = tmp_path / "s.pt"
    saved({"generator": WEIGHTS, **content}, path)
    with pytest.raises(CheckpointError) as caught:
        read_student(path)
    assert f"it holds Python objects that could run code, {name}; give a" in str(caught.value)


def old_bytes(content):
    made = io.BytesIO()
    save_old(content, made)
    return made.getvalue()


# pickles of more than is allowed, without an end, cut values, more values than there are
HEAD = b"".join(
    pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
OLD = {
    "many pickles": old_bytes({f"n{number:0300}": 1 for number in range(5000)}),
    "a long text": HEAD + b"\x80\x02X\xff\xff\xff\x7f" + b"x" * 2_000_000,
    "a line without end": HEAD + b"\x80\x02c" + b"x" * 2_000_000,
    "cut": old_bytes({"a": torch.ones(1000)})[:-2000],
    "more values": old_bytes({"a": torch.ones(1000)}).replace(b"M\xe8\x03", b"J\xe8\x03\0\x40"),
    "fills memory": old_bytes({}) + b"bytearray",
    "ends early": HEAD,
}


@pytest.mark.parametrize("fault", OLD)
def test_a_damaged_file_of_that_format_is_one_sentence(tmp_path, fault):
    path = tmp_path / "s.pt"
    path.write_bytes(OLD[fault])
    for read in (read_student, identify, read_lora):
        with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)
        if fault in ("many pickles", "a long text", "a line without end"):
            assert "its pickles have more than 1.2 MB" in str(caught.value)


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
