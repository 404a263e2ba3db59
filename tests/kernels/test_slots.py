"""Triton's copies of slots, in the interpreter, against the twin."""

import pytest
import torch
from tests.kernels.cases import assert_near, random

from afstream_kernels import copy_slots, reference, rope_shift_tables

pytest.importorskip("triton")

from afstream_kernels.triton import slots as triton_slots

# layers, batch, slots, tokens, heads, head dim; the size of a slot is no power of two
SHAPE = (2, 2, 4, 5, 3, 20)


def buffers(num_slots: int, dtype: torch.dtype = torch.float32):
    layers, batch, _, *slot = SHAPE
    return (torch.full((layers, batch, num_slots, *slot), torch.nan, dtype=dtype) for _ in range(2))


def test_slots_are_copied_to_a_buffer_of_another_length_and_nowhere_else():
    keys, values = random(*SHAPE), random(*SHAPE)
    to_keys, to_values = buffers(6)
    copy_slots(keys, values, to_keys, to_values, [3, 0, 3], [5, 1, 0], backend="triton")
    for held, copied in ((keys, to_keys), (values, to_values)):
        assert torch.equal(copied[:, :, [5, 1, 0]], held[:, :, [3, 0, 3]])
        assert copied[:, :, [2, 3, 4]].isnan().all()


def test_unread_slots_do_not_reach_the_copy():
    keys, values = random(*SHAPE), random(*SHAPE)
    for held in (keys, values):
        held[:, :, [0, 2, 3]] = torch.nan
    to_keys, to_values = buffers(1)
    copy_slots(keys, values, to_keys, to_values, [1], [0], backend="triton")
    assert to_keys.isfinite().all()
    assert to_values.isfinite().all()


def test_keys_are_shifted_on_the_way_and_values_are_not():
    keys, values = random(*SHAPE), random(*SHAPE)
    to_keys, to_values = buffers(2)
    cos, sin = rope_shift_tables([-3, 40], head_dim=20)
    copy_slots(keys, values, to_keys, to_values, [3, 1], [0, 1], (cos, sin), backend="triton")
    wide = keys[:, :, [3, 1]].double()
    shifted = reference.apply_rope(wide, cos[:, None, None].double(), sin[:, None, None].double())
    assert_near(to_keys, shifted)
    assert torch.equal(to_values, values[:, :, [3, 1]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("to_dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_copies_into_another_dtype_are_rounded_to_the_nearest(dtype, to_dtype):
    keys, values = random(*SHAPE, dtype=dtype), random(*SHAPE, dtype=dtype)
    to_keys, to_values = buffers(1, to_dtype)
    copy_slots(keys, values, to_keys, to_values, [2], [0], backend="triton")
    assert torch.equal(to_keys[:, :, 0], keys[:, :, 2].to(to_dtype))
    assert torch.equal(to_values[:, :, 0], values[:, :, 2].to(to_dtype))


def test_ties_go_to_even():
    one = 2**-7  # the step of bfloat16 above 1
    ties = torch.tensor([1 + one / 2, 1 + 3 * one / 2, -1 - one / 2, 1 + one / 2 + 2**-20])
    keys = ties.repeat(1, 1, 1, 5, 1, 1)
    copied = torch.zeros_like(keys, dtype=torch.bfloat16)
    copy_slots(keys, keys, copied, copied.clone(), [0], [0], backend="triton")
    assert copied[0, 0, 0, 0, 0].tolist() == [1, 1 + 2 * one, -1, 1 + one]


def test_a_buffer_can_be_copied_within_itself():
    keys, values = random(*SHAPE), random(*SHAPE)
    before = keys.clone(), values.clone()
    shift = rope_shift_tables([0, 0], head_dim=20)
    copy_slots(keys, values, keys, values, [1, 2], [3, 0], shift, backend="triton")
    for held, old in zip((keys, values), before, strict=True):
        assert torch.equal(held, old[:, :, [2, 1, 2, 1]])


def test_a_slot_larger_than_a_program_is_copied_whole(monkeypatch):
    monkeypatch.setattr(triton_slots, "BLOCK", 64)
    keys, values = random(*SHAPE), random(*SHAPE)
    to_keys, to_values = buffers(1)
    shift = rope_shift_tables([7], head_dim=20)
    copy_slots(keys, values, to_keys, to_values, [2], [0], shift, backend="triton")
    assert_near(to_keys[:, :, 0], reference.apply_rope(keys[:, :, 2], *shift))
    assert torch.equal(to_values[:, :, 0], values[:, :, 2])


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_no_slots_copy_nothing(backend):
    keys, to_keys = random(*SHAPE), torch.zeros(SHAPE)
    copy_slots(keys, keys, to_keys, to_keys, [], [], backend=backend)
    assert not to_keys.any()
