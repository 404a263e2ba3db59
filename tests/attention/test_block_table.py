"""Block tables at fixed addresses: whatever was there before, they hold what was asked for last."""

import torch

from afstream.attention.block_table import StaticBlockTable
from afstream_kernels import rope_shift_tables

COUNT, HEAD_DIM = 4, 12


def assert_holds(table, slots, offsets):
    cos, sin = rope_shift_tables(offsets, head_dim=HEAD_DIM)
    seen = len(slots)
    assert table.slots.tolist() == [*slots, *[-1] * (COUNT - seen)]
    assert torch.equal(table.cos[:seen], cos)
    assert torch.equal(table.sin[:seen], sin)


def test_slots_and_distances_are_those_of_the_last_chunk():
    static = StaticBlockTable(COUNT, HEAD_DIM, torch.device("cpu"))
    first = static.fill((0, 1), (0, 3))
    # a window of sink and chunk sees the same slots for ever, with absolute positions ever farther
    chunks = [((0, 1), (0, 3)), ((0, 1), (0, 6)), ((0, 2, 1), (0, 3, 6)), ((0, 2), (0, 3))]
    for slots, offsets in chunks:
        table = static.fill(slots, offsets)
        assert_holds(table, slots, offsets)
        assert table.slots is first.slots
