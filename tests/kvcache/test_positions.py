"""Tri-region positions, by the table of the method and by what must always hold."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afstream.errors import ConfigError
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import Anchors

ANCHOR = memory_policy("anchor", LENGTHS)


def junction_of(policy, anchors, frame):
    """The junction that a chunk sees: what it sees before its sink and local window."""
    sink_and_local = {0, *range(frame - 6, frame + 3, 3)}
    return next((c for c, _ in seen(policy, anchors, frame) if c not in sink_and_local), None)


def seen(policy, anchors, frame, num_frames=3):
    return [tuple(chunk) for chunk in policy.visible(anchors, frame, num_frames)]


def test_steady_state_is_the_table_of_the_method():
    anchors = Anchors(junction=30)
    assert ANCHOR.query_position(60, 3) == 18
    assert seen(ANCHOR, anchors, 60) == [(0, 0), (30, 6), (54, 12), (57, 15), (60, 18)]


def test_before_the_window_is_full_frames_stand_at_their_own_index():
    assert seen(ANCHOR, Anchors(), 0) == [(0, 0)]
    assert seen(ANCHOR, Anchors(), 6) == [(0, 0), (3, 3), (6, 6)]
    assert seen(ANCHOR, Anchors(), 15) == [(0, 0), (9, 9), (12, 12), (15, 15)]


def test_recache_of_a_full_window():
    assert ANCHOR.query_position(48, 12) == 9
    assert seen(ANCHOR, Anchors(), 48, 12) == [(0, 0), (51, 12), (54, 15), (57, 18)]


def test_recache_before_the_window_is_full_rewrites_everything():
    assert seen(ANCHOR, Anchors(), 0, 9) == [(0, 0), (3, 3), (6, 6)]


def test_absolute_positions_are_frame_indices():
    policy = memory_policy("recache", LENGTHS)
    assert seen(policy, Anchors(), 300) == [(0, 0), (294, 294), (297, 297), (300, 300)]


def test_rolling_has_no_sink_and_clear_forgets():
    rolling, clear = memory_policy("rolling", LENGTHS), memory_policy("clear", LENGTHS)
    assert seen(rolling, Anchors(), 30) == [(21, 21), (24, 24), (27, 27), (30, 30)]
    assert seen(clear, Anchors(floor=27), 30) == [(27, 27), (30, 30)]


def test_junction_shows_when_all_of_it_has_left_the_local_window():
    anchors = Anchors(junction=30)
    assert [junction_of(ANCHOR, anchors, frame) for frame in (33, 36, 39)] == [None, None, 30]


@pytest.mark.parametrize(("junction", "between"), [("hold", 30), ("gap", None)])
def test_hand_over_between_two_junctions(junction, between):
    policy = memory_policy("anchor", LENGTHS, junction=junction)
    anchors = Anchors(junction=30)
    policy.promote(anchors, 60)
    assert junction_of(policy, anchors, 63) == between
    assert junction_of(policy, anchors, 69) == 60


@given(
    frame=st.integers(0, 3000).map(lambda chunk: 3 * chunk),
    junction=st.none() | st.integers(1, 3000).map(lambda chunk: 3 * chunk),
    window=st.sampled_from([6, 9, 12, 15]),
)
def test_every_distance_stays_inside_the_horizon(frame, junction, window):
    policy = memory_policy("anchor", replace(LENGTHS, window_frames=window))
    chunks = policy.visible(Anchors(junction=junction), frame, 3)
    positions = [chunk.position for chunk in chunks]
    assert min(positions) >= 0
    assert max(positions) + 3 <= policy.lengths.horizon_frames
    assert chunks[-1].frame == frame
    assert positions[-1] == policy.query_position(frame, 3)
    # no two regions overlap, and no chunk is seen twice
    assert len({chunk.frame for chunk in chunks}) == len(chunks)
    assert all(b - a >= 3 for a, b in itertools.pairwise(positions))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"window_frames": 10},
            "window is 10 latent frames; it must be a multiple of the chunk, 3",
        ),
        ({"window_frames": 3}, "at least 3 must be left"),
        ({"window_frames": 18}, "take 24 latent frames; tri-region positions have room for 21"),
    ],
    ids=str,
)
def test_impossible_policies_say_what_is_allowed(settings, message):
    with pytest.raises(ConfigError, match=message):
        memory_policy("anchor", replace(LENGTHS, **settings))


def test_unknown_memory_names_the_choices():
    with pytest.raises(ConfigError, match="choose one of anchor, recache"):
        memory_policy("elephant", LENGTHS)
    with pytest.raises(ConfigError, match="keeps no junction"):
        memory_policy("rolling", LENGTHS, junction="hold")
