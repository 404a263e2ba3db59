"""A timeline up to a time: what lies beyond is left out, and nothing before it changes."""

import pytest
from tests.timeline.clocks import CLOCK

from afstream.errors import TimelineError
from afstream.timeline import Moment, Timeline, Unit

TEXT = "@duration 0:30\n0:00 a\n0:05 b\n[+5s] blend=3s c\n0:20 cut d\n[21s] e\n"


@pytest.mark.parametrize(
    ("duration", "count"),
    [
        (Moment(3), 1),
        (Moment(5), 1),
        (Moment(5.1), 2),
        (Moment(90, Unit.VIDEO_FRAMES), 2),
        (Moment(14, Unit.CHUNKS), 2),
        (Moment(15, Unit.CHUNKS), 3),
        (Moment(25), 5),
        (Moment(60), 5),
    ],
)
def test_cues_beyond_the_end_are_left_out(duration: Moment, count: int):
    whole = Timeline.parse(TEXT)
    part = whole.cut(duration, CLOCK)
    assert part.cues == whole.cues[:count]
    assert part.duration == duration
    planned = part.plan(CLOCK)
    same = [(cue.chunk, cue.cue) for cue in whole.plan(CLOCK).cues[:count]]
    assert [(cue.chunk, cue.cue) for cue in planned.cues] == same


def test_a_blend_may_be_broken_off_by_the_end_alone():
    whole = Timeline.parse(TEXT)
    assert whole.cut(Moment(11), CLOCK).live
    assert not whole.cut(Moment(15), CLOCK).live
    with pytest.raises(TimelineError, match="the blend of 3 s"):
        Timeline.parse("0:00 a\n0:05 blend=3s b\n0:06 c").cut(Moment(3), CLOCK)
