"""The memory by itself: what a window writes, what it leaves alone."""

import pytest
import torch
from tests.engine.toy import SIZES, toy_model

from afstream.config import MemoryPolicy, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.kvcache.cache import CURRENT, FREE, RESERVED, Grid, Memory
from afstream_kernels import BACKENDS, Backend

SHAPE = (1, 3, 16, 2, 4)


def make_rollout(backend: Backend = "reference", **policy):
    policy = MemoryPolicy(**policy)
    rollout = Rollout.of(toy_model().backbone, policy, SamplerConfig(), backend=backend)
    embeds = torch.randn(2, 1, SIZES.text_len, SIZES.text_dim)
    with torch.no_grad():
        texts = [rollout.model.text_context(one) for one in embeds]
    return rollout, rollout.start(texts[0], SHAPE), texts[1]


def commit(rollout, state, count):
    for _ in range(count):
        rollout.commit(state, torch.randn(SHAPE))


def slots_of(memory):
    return {
        owner: memory.values[:, :, slot].clone()
        for slot, owner in enumerate(memory.owners)
        if owner >= 0
    }


def test_nothing_is_held_at_first_and_the_first_slot_is_never_given_away():
    rollout, state, _ = make_rollout()
    owners = state.memory.owners
    assert owners == [RESERVED, *[FREE] * state.memory.policy.num_slots]
    commit(rollout, state, 9)
    assert owners[CURRENT] == RESERVED
    assert len({owner for owner in owners if owner >= 0}) == state.memory.policy.num_slots


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_chunk_in_the_making_touches_no_finished_one(backend):
    rollout, state, _ = make_rollout(backend)
    commit(rollout, state, 5)
    before = slots_of(state.memory)
    noise = torch.randn(4, *SHAPE)
    first = rollout.denoise(state, noise)
    # broken off and begun again, it comes out the same
    assert torch.equal(rollout.denoise(state, noise), first)
    after = slots_of(state.memory)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[owner], after[owner]) for owner in before)


@pytest.mark.parametrize(
    ("sink_frames", "chunks", "rewritten"),
    [
        # the whole past fits the window: the sink is written anew as well
        (3, 4, {0, 3, 6, 9}),
        # the block begins with the sink's second half, which stays as it was
        (6, 5, {9, 12}),
        (3, 7, {12, 15, 18}),
    ],
    ids=["all", "half a sink", "local only"],
)
def test_a_recache_writes_what_the_method_says(sink_frames, chunks, rewritten):
    rollout, state, text = make_rollout(sink_frames=sink_frames)
    commit(rollout, state, chunks)
    before = slots_of(state.memory)
    rollout.switch(state, text)
    after = slots_of(state.memory)
    assert {owner for owner in after if not torch.equal(before[owner], after[owner])} == rewritten


def test_a_fork_holds_the_same_and_shares_nothing():
    rollout, state, _ = make_rollout("sdpa")
    commit(rollout, state, 6)
    memory, fork = state.memory, state.memory.fork()
    held = slots_of(memory)
    assert held.keys() == slots_of(fork).keys()
    assert all(torch.equal(held[owner], copy) for owner, copy in slots_of(fork).items())
    fork.clear(18)
    fork.keys.zero_()
    assert memory.owners != fork.owners
    assert all(torch.equal(held[owner], kept) for owner, kept in slots_of(memory).items())


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_fork_in_the_middle_of_a_chunk_writes_into_its_own_buffers(backend):
    rollout, state, _ = make_rollout(backend)
    commit(rollout, state, 4)
    clean = rollout.denoise(state, torch.randn(4, *SHAPE))
    fork = state.fork()
    rollout.commit(state, clean)
    kept = slots_of(state.memory)
    rollout.commit(fork, clean)
    assert all(torch.equal(kept[owner], copy) for owner, copy in slots_of(fork.memory).items())
    rollout.commit(fork, torch.randn(SHAPE))
    assert all(torch.equal(kept[owner], held) for owner, held in slots_of(state.memory).items())


def test_only_vendor_attention_takes_the_memory_of_a_view():
    grid = Grid(rows=1, columns=2)
    views = {
        backend: Memory.allocate(MemoryPolicy(), SIZES, grid, backend=backend).view
        for backend in BACKENDS
    }
    assert [backend for backend, view in views.items() if view is not None] == ["sdpa"]
    (shape,) = {held.shape for held in views["sdpa"] or ()}
    assert shape[2] == MemoryPolicy().num_segments == 5
