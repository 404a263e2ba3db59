"""The memory by itself: what a window writes, what it leaves alone."""

from dataclasses import replace

import pytest
import torch
from tests.engine.toy import SIZES, toy_model

from afstream.attention.base import CURRENT
from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.families.presets import LENGTHS
from afstream.kvcache.cache import FREE, RESERVED, KVCache
from afstream.kvcache.memories import memory_policy
from afstream_kernels import BACKENDS, choose_backend

SHAPE = (1, 3, 16, 2, 4)


def make_rollout(backend="reference", **lengths):
    policy = memory_policy("anchor", replace(LENGTHS, **lengths))
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
        owner: memory.pool.values[:, :, slot].clone()
        for slot, owner in enumerate(memory.slot_frames)
        if owner >= 0
    }


def test_nothing_is_held_at_first_and_the_first_slot_is_never_given_away():
    rollout, state, _ = make_rollout()
    slot_frames = state.cache.slot_frames
    assert slot_frames == [RESERVED, *[FREE] * state.cache.policy.num_slots]
    commit(rollout, state, 9)
    assert slot_frames[CURRENT] == RESERVED
    assert len({first for first in slot_frames if first >= 0}) == state.cache.policy.num_slots


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_chunk_in_the_making_touches_no_finished_one(backend):
    rollout, state, _ = make_rollout(backend)
    commit(rollout, state, 5)
    before = slots_of(state.cache)
    noise = torch.randn(4, *SHAPE)
    first = rollout.denoise(state, noise)
    # broken off and begun again, it comes out the same
    assert torch.equal(rollout.denoise(state, noise), first)
    after = slots_of(state.cache)
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
    before = slots_of(state.cache)
    rollout.switch(state, text)
    after = slots_of(state.cache)
    assert {owner for owner in after if not torch.equal(before[owner], after[owner])} == rewritten


def test_a_fork_holds_the_same_and_shares_nothing():
    rollout, state, _ = make_rollout("sdpa")
    commit(rollout, state, 6)
    memory, fork = state.cache, state.cache.fork()
    held = slots_of(memory)
    assert held.keys() == slots_of(fork).keys()
    assert all(torch.equal(held[owner], copy) for owner, copy in slots_of(fork).items())
    fork.clear()
    fork.pool.keys.zero_()
    assert memory.slot_frames != fork.slot_frames
    assert all(torch.equal(held[owner], kept) for owner, kept in slots_of(memory).items())


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_fork_in_the_middle_of_a_chunk_writes_into_its_own_buffers(backend):
    rollout, state, _ = make_rollout(backend)
    commit(rollout, state, 4)
    clean = rollout.denoise(state, torch.randn(4, *SHAPE))
    fork = state.fork()
    rollout.commit(state, clean)
    kept = slots_of(state.cache)
    rollout.commit(fork, clean)
    assert all(torch.equal(kept[owner], copy) for owner, copy in slots_of(fork.cache).items())
    rollout.commit(fork, torch.randn(SHAPE))
    assert all(torch.equal(kept[owner], held) for owner, held in slots_of(state.cache).items())


def test_only_vendor_attention_takes_the_memory_of_a_gathered_copy():
    policy = memory_policy("anchor", LENGTHS)
    caches = {
        name: KVCache.allocate(
            policy,
            SIZES,
            (1, 2),
            backend=choose_backend(name, device="cpu", dtype=torch.float32),
        )
        for name in BACKENDS
    }
    gathered = {name: cache.reader.copies for name, cache in caches.items()}
    assert [name for name, copies in gathered.items() if copies] == ["sdpa"]
    (shape,) = {held.shape for held in gathered["sdpa"]}
    assert shape[2] == policy.num_visible == 5
