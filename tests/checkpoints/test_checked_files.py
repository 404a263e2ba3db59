"""Files that stages leave for each other: whole, finite, with a checksum of their own."""

import os
import resource
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from afstream.checkpoints.files import save_tensors
from afstream.checkpoints.finite import LARGEST, first_not_finite
from afstream.checkpoints.safetensors import damage, map_tensors
from afstream.errors import CheckpointError, OutputError

TENSORS = {
    "whole": torch.arange(5),
    "half": torch.randn(3, 4).half(),
    "alone": torch.tensor(2.0),
    "none": torch.zeros(0, 3),
    "truth": torch.ones(3, dtype=torch.bool),
    "brain": torch.randn(7).bfloat16(),
    "turned": torch.randn(3, 5).t(),
    "learning": torch.randn(4, requires_grad=True),
}


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "made" / "a.safetensors"
    save_tensors(made, TENSORS, {"who": "wé"})
    return made


def test_others_read_them_and_they_are_ordinary_files(path):
    for found in (load_file(path), map_tensors(path)):
        assert found.keys() == TENSORS.keys()
        for name, value in TENSORS.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
    with safe_open(path, "pt") as file:
        assert file.metadata()["who"] == "wé"
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~before
    assert list(path.parent.iterdir()) == [path]


def test_a_bit_that_turned_anywhere_is_found(path):
    whole = path.read_bytes()
    assert damage(path) == ""
    for at in range(len(whole)):
        turned = bytearray(whole)
        turned[at] ^= 1 << at % 8
        path.write_bytes(turned)
        assert damage(path), at
    for content in (b"", whole[:5], whole[:-1], whole + b"x", b"x" * 100):
        path.write_bytes(content)
        assert damage(path)
    path.unlink()
    assert damage(path) == "No such file or directory"
    save_file({"w": torch.zeros(3)}, path)
    assert damage(path) == "it has no checksum"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_not_finite_is_not_written(path, dtype, value):
    before = path.read_bytes()
    lost = torch.zeros(3, 40, dtype=dtype)
    lost[2, 39] = value
    assert first_not_finite({"good": torch.ones(2), "lost": lost}.items(), bound=LARGEST) == "lost"
    with pytest.raises(CheckpointError, match="is not written: lost holds values that are not"):
        save_tensors(path, {"good": torch.ones(2), "lost": lost})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_is_finite_is_written():
    good = {"large": torch.tensor([1e18, -1e18]), "half": torch.tensor([65504.0]).half()}
    assert first_not_finite((TENSORS | good).items(), bound=LARGEST) is None


def test_a_full_disk_leaves_the_old_file(path):
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="file too large"):
            save_tensors(path, {"w": torch.zeros(5_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
