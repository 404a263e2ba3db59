"""Nested values as plain data and tensors."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from afstream.engine.saved.nested import Unpacker, pack


class Past(NamedTuple):
    frames: tuple[torch.Tensor, ...]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    past: Past | None
    names: dict[str, object]


@dataclass
class Hidden:
    seen: int = field(default=0, init=False)


class Odd(tuple):
    """A tuple that is not named."""


def there_and_back(value):
    tensors = {}
    data = json.loads(json.dumps(pack(value, tensors, module=__name__)))
    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    assert all(tensor.is_contiguous() for tensor in stored.values())
    return Unpacker(stored, torch.device("cpu"), __name__).unpack(data)


def test_all_that_decoders_keep_comes_back():
    value = Parts(
        past=Past((torch.arange(6.0).view(2, 3), torch.ones(1, dtype=torch.bfloat16)), length=3),
        names={"a": None, "b": ["Rep", 1.5, True], "c": (), "d": {}},
    )
    again = there_and_back(value)
    assert type(again) is Parts
    assert type(again.past) is Past
    assert (again.names, again.past.length) == (value.names, 3)
    assert again.past.frames[1].dtype == torch.bfloat16
    for ours, theirs in zip(again.past.frames, value.past.frames, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(1, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d),
        torch.randn(4, 6).t(),
        torch.randn(1, 5, 2, 3)[:, -2:],
        torch.tensor(3.5),
        torch.zeros(0, 4),
    ],
    ids=lambda tensor: str(tensor.stride()),
)
def test_tensors_lie_in_memory_as_they_did(tensor):
    again = there_and_back(tensor)
    assert torch.equal(again, tensor)
    assert again.stride() == tensor.stride()
    again.zero_()
    assert tensor.numel() == 0 or tensor.any()


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, 1).expand(3, 4), torch.randn(4, 6)[:, ::2], torch.randn(6, 4).t()[::2]],
)
def test_gaps_and_repeats_in_memory_are_left_out(tensor):
    again = there_and_back(tensor)
    assert torch.equal(again, tensor)
    assert again.untyped_storage().nbytes() == tensor.numel() * 4


@pytest.mark.parametrize("value", [Path(), {1}, Hidden(), Odd((1,)), torch.Size([2]), 1j])
def test_nothing_else_is_kept(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        pack((value,), {}, module=__name__)


def test_a_class_of_another_module_is_refused_on_both_ways():
    with pytest.raises(TypeError, match=r"test_nested\.Past"):
        pack(Past((), 0), {}, module="json")
    data = pack(Past((), 0), {}, module=__name__)
    with pytest.raises(ValueError, match="no nested values"):
        Unpacker({}, torch.device("cpu"), "json").unpack(data)
    # and none is imported
    name = "this"
    assert name not in sys.modules
    with pytest.raises(ValueError, match="no nested values"):
        Unpacker({}, torch.device("cpu"), name).unpack(data)
    assert name not in sys.modules


def test_what_nests_too_deeply_is_refused():
    data = None
    for _ in range(200):
        data = {"tuple": None, "parts": [data]}
    with pytest.raises(ValueError, match="too deeply"):
        Unpacker({}, torch.device("cpu"), __name__).unpack(data)
