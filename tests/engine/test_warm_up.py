"""A rehearsal: nothing is captured once the video has begun, and no frame changes."""

import itertools
from dataclasses import replace

import pytest
import torch
from tests.engine.fake_gpu import FakeGraphs
from tests.engine.toy import toy_model

from afstream.bench import Load, Meter
from afstream.engine.facts import StreamFacts
from afstream.errors import ConfigError
from afstream.spec import StreamConfig
from afstream.stream import Stream

STAR, TURN, HEART = "A red star drifts left.", "It turns right.", "A blue heart spins at night."
PROMPTS = {0: STAR, 5: TURN, 9: HEART}
NUM_CHUNKS = 13


def make_stream(**settings):
    stream = Stream(toy_model(), StreamConfig(backend="sdpa", **settings))
    stream._pipeline.rollout = replace(stream._pipeline.rollout, use_graphs=True)
    return stream


def latents_of(stream):
    chunks, found = stream.chunks(), []
    for index in range(NUM_CHUNKS):
        if index in PROMPTS:
            stream.cue(PROMPTS[index])
        found.append(next(chunks).latents)
    return torch.stack(found)


@pytest.mark.parametrize("memory", ["anchor", "recache", "rolling"])
def test_all_is_captured_before_the_video_begins(memory, monkeypatch):
    fake = FakeGraphs(monkeypatch)
    plain = latents_of(make_stream(memory=memory))
    captures = len(fake.captured)
    assert captures
    warm = make_stream(memory=memory)
    warm.warm_up()
    assert len(fake.captured) == 2 * captures
    assert (warm.next_chunk, warm.position, warm.state.rollout) == (0, 0, None)
    assert torch.equal(latents_of(warm), plain)
    assert len(fake.captured) == 2 * captures


def test_a_stream_that_has_begun_is_not_rehearsed():
    stream = Stream(toy_model())
    stream.cue(STAR)
    next(stream.chunks())
    with pytest.raises(ConfigError, match="the stream has begun; warm it up before"):
        stream.warm_up()
    stream.close()
    with pytest.raises(ConfigError, match="closed"):
        stream.warm_up()


def test_no_memory_stays_behind(tmp_path):
    stream = Stream(toy_model())
    stream.cue(STAR)
    next(stream.chunks())
    stream.save(tmp_path / "state")
    for end in (lambda one: one.load(tmp_path / "state"), Stream.close):
        warm = Stream(stream.model)
        warm.warm_up()
        assert warm._pipeline.prompts.spare is not None
        end(warm)
        assert warm._pipeline.prompts.spare is None
    # what a prompt is needed for, a rehearsal does not give
    warm = Stream(stream.model)
    warm.warm_up()
    with pytest.raises(ConfigError, match="no prompt yet"):
        next(warm.chunks())


@pytest.mark.parametrize("pays", [False, True])
def test_a_measured_stream_is_rehearsed_on_a_gpu_only(pays, monkeypatch):
    stream, done = Stream(toy_model()), []
    monkeypatch.setattr(Stream, "open", lambda _: stream)
    assert not stream.pays_to_warm_up
    monkeypatch.setattr(StreamFacts, "pays_to_warm_up", pays)
    monkeypatch.setattr(Stream, "warm_up", lambda self: done.append(self))
    assert list(itertools.islice(Meter(Load(duration_s=1)).run(), 1))
    assert done == [stream] * pays
