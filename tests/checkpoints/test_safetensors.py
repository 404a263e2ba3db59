"""Safetensors files read in place and written tensor by tensor, whatever their size."""

import hashlib
import json
import sys
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from afstream.checkpoints.files import read_weights
from afstream.checkpoints.safetensors import (
    map_checked,
    map_tensors,
    read_header,
    size_of,
    write_checked,
    write_safetensors,
)
from afstream.errors import CheckpointError


def test_only_one_tensor_is_held_at_a_time(tmp_path):
    """The reason why there is a writer of our own: safetensors' takes all tensors at once."""
    seen = []

    def change(name, value):
        assert all(one() is None for one in seen)
        # an array lives as long as any tensor that shares its memory
        array = value.numpy() * 2
        seen.append(weakref.ref(array))
        return torch.from_numpy(array)

    tensors = {f"t{index}": torch.randn(index, 3) for index in range(1, 6)}
    write_safetensors(tmp_path / "a.safetensors", tensors, dtype=torch.float32, change=change)
    assert len(seen) == 5


def test_a_file_with_a_checksum_is_an_ordinary_one(tmp_path):
    """Of any dtypes, each value at a multiple of its size."""
    tensors = {
        "byte": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "half": torch.randn(3, 5).bfloat16(),
        "none": torch.empty(0, 4),
        "whole": torch.randn(2, 3).t(),
        "flag": torch.tensor(True),
        "long": torch.tensor([2**40]),
    }
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        write_checked(file, tensors, {"who": "we"})
    content = path.read_bytes()
    metadata, ours = map_checked(path)
    theirs = load_file(path)
    assert metadata == {"format": "pt", "who": "we"}
    said = read_header(path).metadata["sha256"].encode()
    assert said.decode() == hashlib.sha256(content.replace(said, b"0" * 64)).hexdigest()
    assert theirs.keys() == ours.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(theirs[name], value)
        assert torch.equal(ours[name], value)
    places = read_header(path).places.values()
    assert all(place.start % place.dtype.itemsize == 0 for place in places)


@pytest.mark.parametrize("metadata", [None, {"sha256": ""}, {"sha256": "0" * 64}])
def test_a_file_without_its_checksum_is_refused(tmp_path, metadata):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata)
    with pytest.raises(ValueError, match="checksum"):
        map_checked(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_safetensors_reads_what_we_write_and_we_what_it_writes(tmp_path, dtype):
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.tensor(2.5),
        "none": torch.empty(0, 4),
        "\N{GREEK SMALL LETTER ALPHA}": torch.randn(7),
    }
    path, told = tmp_path / "a.safetensors", []
    digest = write_safetensors(path, tensors, dtype=dtype, report=told.append)
    assert sum(told) == path.stat().st_size == size_of(tensors, dtype)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    theirs, ours = load_file(path), map_tensors(path)
    assert theirs.keys() == ours.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(theirs[name], value.to(dtype))
        assert torch.equal(ours[name], value.to(dtype))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert all(place.start % dtype.itemsize == 0 for place in read_header(path).places.values())
    save_file(
        {name: value.to(dtype) for name, value in tensors.items()},
        tmp_path / "b.safetensors",
        {"who": "they"},
    )
    for name, value in map_tensors(tmp_path / "b.safetensors").items():
        assert torch.equal(value, tensors[name].to(dtype))
    assert read_header(tmp_path / "b.safetensors").metadata == {"who": "they"}


def test_what_is_written_to_a_view_stays_out_of_the_file(tmp_path):
    save_file({"a": torch.zeros(8)}, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    view = map_tensors(tmp_path / "a.safetensors")["a"]
    view += 1
    assert view.sum() == 8
    assert (tmp_path / "a.safetensors").read_bytes() == before


def sparse_file(path, num_bytes):
    """One tensor of bytes; the values are a hole in the file, which takes no disk."""
    entry = {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}
    header = json.dumps({"a": entry}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)


def memory_bytes():
    """Main memory and swap of this machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
    }
    return (sizes["MemTotal"] + sizes["SwapTotal"]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no such account")
def test_a_file_larger_than_memory_opens_here_and_not_in_safetensors(tmp_path):
    """The reason why there is a reader of our own; when this fails, safetensors' will do."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "0":
        pytest.skip("the system promises any amount of memory, or none")
    path = tmp_path / "a.safetensors"
    sparse_file(path, 2 * memory_bytes())
    tensor = map_tensors(path)["a"]
    assert tensor[-1] == 0
    with pytest.raises(RuntimeError, match="Cannot allocate memory"), safe_open(path, "pt") as file:
        file.get_slice("a")


HEADERS = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "F99", None]),
            "shape": st.lists(st.sampled_from([1, 2, 0, 1.0, -1, 2**62, "1", None]), max_size=2),
            "data_offsets": st.sampled_from(
                [[0, 4], [0, 8], [0, 2], [4, 8], [0.0, 4.0], [1e30], 3]
            ),
        }
    )
    | st.sampled_from([None, [], 3, "x", {"a": 1}]),
)


@given(HEADERS, st.integers(0, 16))
@example({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, 4)
@example({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}, 4)
@example({"a": {"dtype": "U8", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, 0)
@example({"a": {"dtype": "U8", "shape": [-1, -4], "data_offsets": [0, 4]}}, 4)
def test_any_header_gives_tensors_or_one_sentence(tmp_path_factory, header, num_bytes):
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(num_bytes))
    fault = ""
    try:
        assert sum(value.nbytes for value in read_weights(path).values()) == num_bytes
    except CheckpointError as error:
        fault = str(error)
    assert fault == "" or "cannot be read as a checkpoint: " in fault
    assert fault.isprintable()
