"""A new attention backend is one file and one row: the worked example of CONTRIBUTING.md."""

import itertools

import pytest
import torch
from tests.engine.toy import toy_model
from tests.guide import worked_example
from torch.testing import assert_close

from afstream import attention
from afstream.spec import StreamConfig
from afstream.stream import Stream


@pytest.fixture
def slot_by_slot(monkeypatch):
    rows = dict(attention.ATTENTION)
    for module in ("afstream.attention", "afstream.kvcache.cache", "afstream.engine.rollout"):
        monkeypatch.setattr(f"{module}.ATTENTION", rows)
    return worked_example("A new attention backend", ATTENTION=rows)


def latents_of(backend):
    stream = Stream(toy_model(), StreamConfig(backend=backend))
    stream.cue("A red star drifts left.")
    chunks = list(itertools.islice(stream.chunks(), 4))
    stream.cue("It turns right.")
    chunks += itertools.islice(stream.chunks(), 3)
    return torch.stack([chunk.latents for chunk in chunks])


def test_it_gives_the_latents_of_the_reference(slot_by_slot):
    assert "slot-by-slot" in attention.ATTENTION
    found, expected = latents_of("slot-by-slot"), latents_of("reference")
    scale = expected.abs().max()
    assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)
