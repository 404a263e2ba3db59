"""What a program sees of a stream: opening, closing, one iterator at a time, readable objects."""

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from tests.engine.toy import toy_model

import afstream
from afstream.errors import ConfigError, TimelineError
from afstream.families.pocket.family import POCKET
from afstream.kvcache.memories import memory_policy
from afstream.spec import StreamConfig
from afstream.stream import Stream

STAR, TURN = "A red star drifts left.", "It turns right."


@pytest.fixture(scope="module")
def model():
    return toy_model()


def take(stream, count):
    return list(itertools.islice(stream.chunks(), count))


def test_settings_and_one_config_open_the_same_stream():
    config = StreamConfig(seed=4, memory="rolling", backend="reference", ahead=True)
    streams = [
        Stream.open(config),
        Stream.open("pocket", seed=4, memory="rolling", backend="reference", ahead=True),
        Stream.open(StreamConfig(memory="rolling", backend="reference"), seed=4, ahead=True),
    ]
    assert [stream.config for stream in streams] == [config] * 3
    frames = []
    for stream in streams:
        stream.cue(STAR)
        frames.append(next(stream.chunks()).frames)
    assert np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], frames[2])
    with pytest.raises(TypeError, match="colour"):
        Stream.open(colour="red")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seed": -1}, "seed is -1; it must be a whole number"),
        ({"seed": 1.5}, r"seed is 1\.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"size": (64,)}, r"size is \(64,\); give width and height"),
        ({"size": "64x64"}, "size is '64x64'; give width and height"),
        ({"size": (64, 64.0)}, r"size is \(64, 64\.0\); give width and height"),
        ({"memory": 3}, "memory is 3; give a memory's name or a MemoryPolicy"),
        ({"gpu_memory": -5}, "gpu_memory is -5; give a number of bytes above 0"),
        ({"prompts": "a star"}, "prompts is the text 'a star'; give a tuple"),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Stream.open(**settings)


def test_a_policy_of_ones_own_is_accepted(model):
    assert afstream.MemoryPolicy is not None
    policy = memory_policy("anchor", POCKET.lengths, junction="gap")
    assert Stream.open(memory=policy).policy is policy
    assert Stream.open(memory=policy, junction="hold").policy.settings["junction"] == "hold"
    # an object that is none of ours, but says the same, streams the same

    class Mine:
        def __getattr__(self, name):
            return getattr(policy, name)

    own: Any = Mine()
    mine, theirs = (Stream(model, StreamConfig(memory=one)) for one in (own, policy))
    for stream in (mine, theirs):
        stream.cue(STAR)
    for a, b in zip(take(mine, 6), take(theirs, 6), strict=True):
        assert np.array_equal(a.frames, b.frames)


def test_a_closed_stream_lets_go_and_says_so(model):
    with Stream(model) as stream:
        stream.cue(STAR)
        chunks = stream.chunks()
        next(chunks)
        assert stream.state.rollout is not None
    assert stream.state.rollout is None
    # the iterator that was under way ends
    assert list(chunks) == []
    for use in (lambda: stream.cue(TURN), stream.chunks, lambda: stream.play(STAR), stream.fork):
        with pytest.raises(ConfigError, match="the stream is closed; open another one"):
            use()
    # the model is not closed with it
    other = Stream(model)
    other.cue(STAR)
    assert len(take(other, 1)) == 1


def test_a_second_iterator_is_refused_while_the_first_is_there(model):
    stream = Stream(model)
    stream.cue(STAR)
    chunks = stream.chunks()
    next(chunks)
    with pytest.raises(ConfigError, match=r"another iterator or thread .* fork\(\) of the stream"):
        next(stream.chunks())
    # nothing was lost by it, and the first goes on
    assert next(chunks).index == 1
    chunks.close()
    assert next(stream.chunks()).index == 2


def test_a_second_thread_is_refused_and_a_cue_from_it_is_not(model):
    stream = Stream(model)
    stream.cue(STAR)
    refused = []

    def other_thread():
        stream.cue(TURN)
        try:
            next(stream.chunks())
        except ConfigError as error:
            refused.append(error)

    chunks = stream.chunks()
    next(chunks)
    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert len(refused) == 1
    assert next(chunks).prompt == TURN


def test_words_are_played_as_a_timeline(model):
    stream = Stream(model)
    text = f"@duration 0:02\n0:00 {STAR}\n0:01 {TURN}"
    prompts = [chunk.prompt for chunk in stream.play(text)]
    assert (prompts[0], prompts[-1]) == (STAR, TURN)
    number: Any = 3
    with pytest.raises(TimelineError, match="3 cannot be played; give a Timeline, its plan"):
        stream.play(number)
    with pytest.raises(TimelineError, match="the text:1:5: found no prompt"):
        stream.play("0:00")


def test_objects_say_what_they_are(model):
    stream = Stream(model)
    assert repr(stream) == (
        "<Stream of toy: 32x16 at 16 fps, memory anchor, sdpa on cpu, next chunk 0 at 0 s>"
    )
    stream.cue(STAR)
    (chunk,) = take(stream, 1)
    assert repr(chunk) == f"<Chunk 0 at 0 s: 9 frames of 32x16, segment 0, {STAR!r}>"
    assert len(repr(stream.state.rollout.cache)) < 2000
    stream.close()
    assert repr(stream).endswith("closed>")
