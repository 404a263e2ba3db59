"""Made-up backbones of Wan's sizes stream like real ones, with nothing to download."""

import itertools

import pytest
import torch
from tests.wan_transformer import CONFIG

from afstream.config import WAN_BACKBONES
from afstream.errors import CheckpointError
from afstream.families.opening import open_model
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from afstream.stream import Stream

TINY = ModelSpec(name="random:wan-tiny", device="cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(WAN_BACKBONES, "wan-tiny", CONFIG)


def test_it_streams_and_says_what_it_is():
    stream = Stream.open(TINY, size=(32, 48))
    stream.cue("anything at all")
    first, second = itertools.islice(stream.chunks(), 2)
    assert first.frames.shape == (9, 48, 32, 3)
    assert second.frames.shape == (12, 48, 32, 3)
    assert first.frames.std() > 1
    assert all("stand-in" in stream.model.details[part] for part in ("text", "vae"))
    assert "random" in stream.model.details["backbone"]


def test_the_same_size_has_the_same_weights_and_prompts_differ():
    one, other = (open_model(TINY) for _ in range(2))
    assert isinstance(one.backbone, Backbone)
    assert isinstance(other.backbone, Backbone)
    weights = other.backbone.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in one.backbone.state_dict().items()
    )
    first, again, second = one.text.encode(["a", "a", "b"])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.shape == (512, 32)


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"random:wan-1\.3b or random:wan-14b"):
        open_model(ModelSpec(name="random:wan-2b", device="cpu"))
