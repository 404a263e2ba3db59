"""A new memory is one file and one row: the worked example of CONTRIBUTING.md."""

import itertools

import pytest
from tests.engine.toy import toy_model
from tests.guide import worked_example

from afstream.families.pocket.family import POCKET
from afstream.kvcache import memories
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.meta_model import MetaModel
from afstream.spec import StreamConfig
from afstream.stream import Stream

STAR, TURN = "A red star drifts left.", "It turns right."


@pytest.fixture(autouse=True)
def milestones(monkeypatch):
    monkeypatch.setattr(memories, "MEMORIES", dict(memories.MEMORIES))
    return worked_example("A new memory", MEMORIES=memories.MEMORIES)


def test_it_is_chosen_by_its_name_and_shows_its_milestones():
    policy = memories.memory_policy("milestones", POCKET.lengths)
    anchors = policy.start()

    def seen(frame):
        return [chunk.frame for chunk in policy.visible(anchors, frame, 3)]

    # the sink, nothing yet, then a local window of nine frames
    assert seen(18) == [0, 12, 15, 18]
    # the chunk at 12 has left the window
    assert seen(21) == [0, 12, 15, 18, 21]
    assert seen(30) == [0, 12, 24, 27, 30]
    assert seen(33) == [0, 24, 27, 30, 33]


def test_it_streams_and_holds_what_it_shows():
    stream = Stream(toy_model(), StreamConfig(memory="milestones"))
    stream.cue(STAR)
    for chunk in itertools.islice(stream.chunks(), 20):
        if chunk.index == 10:
            stream.cue(TURN)
        cache = stream.state.rollout.cache
        held = set(cache.slot_frames)
        seen = stream.policy.visible(cache.anchors, 3 * chunk.index, 3)
        assert {one.frame for one in seen} <= held
    with pytest.raises(ValueError, match="memory 'milestones' keeps no junction"):
        memories.memory_policy("milestones", POCKET.lengths, junction="hold")


def test_the_memory_plan_counts_its_slots():
    model = MetaModel.open(StreamConfig(), dtype="float32")
    # one chunk more than the window of the memory without it
    more, window = (
        estimate(model, StreamConfig(memory=name)).tensor_bytes
        for name in ("milestones", "rolling")
    )
    assert more > window
