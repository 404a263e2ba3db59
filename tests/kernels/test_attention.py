"""Triton's segment attention, in the interpreter, against the twin in float64."""

import contextlib
import math
from typing import Any

import pytest
import torch
from tests.kernels.cases import DTYPES, assert_near, error, make_case
from torch.testing import assert_close

from afstream_kernels import BACKENDS, reference, rope_shift_tables, vendor, vendor_attention
from afstream_kernels.attention import HEAD_DIMS

pytest.importorskip("triton")

from afstream_kernels.triton import attention
from afstream_kernels.triton.tiles import Tile

# the interpreter's tiles are 32 x 32
AWKWARD: dict[str, dict[str, Any]] = {
    "tails of queries and keys": {"num_tokens": 45, "slot_tokens": 39},
    "whole tiles only": {"num_tokens": 64, "slot_tokens": 32},
    "one query": {"num_tokens": 1},
    "one key a slot": {"num_tokens": 33, "slot_tokens": 1},
    "one segment": {"slots": [2]},
    "the same slot twice": {"slots": [1, 1]},
    "a missing segment first": {"slots": [-1, 4]},
    "own keys beside slots": {"own_tokens": 45},
    "own keys of another number": {"num_tokens": 5, "own_tokens": 34},
    "one own key": {"num_tokens": 5, "own_tokens": 1},
    "own keys and a missing segment": {"slots": [-1], "own_tokens": 7},
    "own keys only": {"slots": [], "own_tokens": 45},
    "no segments": {"slots": []},
    "missing segments only": {"slots": [-1, -1]},
}


def test_fresh_memory_is_poisoned():
    x = torch.zeros(2, dtype=torch.bfloat16)
    for fresh in (torch.empty(2), torch.empty_like(x), x.new_empty(2)):
        assert fresh.isnan().all()


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_errs_at_most_twice_as_much_as_torch(dtype, head_dim):
    case = make_case(dtype=DTYPES[dtype], head_dim=head_dim, own_tokens=33)
    out, exact = case.attend(), case.exact()
    assert out.dtype == DTYPES[dtype]
    assert error(out, exact) <= 2 * error(case.attend("sdpa"), exact)


# as on chips before and after Hopper
TILES = [
    Tile(32, 32, 4, 1, descriptors=False),
    Tile(32, 32, 4, 1, descriptors=True, carried=True),
]


@pytest.mark.parametrize("tile", TILES, ids=["pointers", "descriptors, query carried"])
@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_sizes(awkward, tile, monkeypatch):
    monkeypatch.setattr(attention, "forward_tile", lambda _: tile)
    case = make_case(**AWKWARD[awkward], batch=2)
    exact = case.wide().attend_lse("reference")
    for found, expected in zip(case.attend_lse(), exact, strict=True):
        assert_near(found, expected)


@pytest.mark.parametrize("slots", [[], [-1, -1]], ids=str)
def test_with_nothing_to_see_the_output_is_0_and_the_log_sum_minus_infinity(slots):
    out, lse = make_case(slots).attend_lse()
    assert_close(out, torch.zeros_like(out), rtol=0, atol=0)
    assert_close(lse, torch.full_like(lse, -math.inf), rtol=0, atol=0)


def test_the_order_of_segments_does_not_matter():
    case = make_case((3, 1, 0))
    order = [2, 0, 1]
    shuffled = case.but(
        slots=[case.slots[index] for index in order], cos=case.cos[order], sin=case.sin[order]
    )
    assert_near(case.attend(), shuffled.attend())


def test_a_common_shift_of_all_positions_does_not_matter():
    case = make_case(own_tokens=9)

    def moved(x, offset: int):
        cos, sin = rope_shift_tables([offset], head_dim=x.shape[-1])
        return reference.apply_rope(x, cos, sin)

    # the block and its own keys move by 2, keys in slots by 5: offsets shrink by 2 and grow by 5
    cos, sin = rope_shift_tables([offset - 2 + 5 for offset in (18, 7, 3)], head_dim=32)
    own_keys, own_values = case.own
    shifted = case.but(
        q=moved(case.q, 2),
        keys=moved(case.keys, 5),
        own=(moved(own_keys, 2), own_values),
        cos=cos,
        sin=sin,
    )
    assert_near(case.attend(), shifted.attend())


@pytest.mark.parametrize("num_splits", [1, 2, 3, 9])
@pytest.mark.parametrize("own_tokens", [None, 9], ids=["slots", "slots and own"])
def test_split_equals_whole(num_splits, own_tokens):
    # 6 tiles of keys, the middle 2 missing: a split in 3 has a part that sees nothing
    case = make_case(own_tokens=own_tokens, num_heads=1)
    exact = case.wide().attend_lse("reference")
    for found, expected in zip(case.attend_lse(num_splits=num_splits), exact, strict=True):
        assert_near(found, expected)


def test_splits_in_half_precision_are_rounded_once():
    case = make_case(dtype=torch.bfloat16)
    split, _ = case.attend_lse(num_splits=3)
    assert error(split, case.exact()) <= 1.1 * error(case.attend(), case.exact())


def test_parts_can_be_merged_by_their_log_sums():
    case = make_case((3, 0))
    parts = [
        case.but(slots=[slot], cos=cos[None], sin=sin[None]).attend_lse()
        for slot, cos, sin in zip(case.slots, case.cos, case.sin, strict=True)
    ]
    sums = torch.stack([lse for _, lse in parts])
    shares = sums.softmax(0).transpose(-1, -2)[..., None]
    merged = (shares * torch.stack([out for out, _ in parts])).sum(0)
    assert_near(case.attend(), merged)
    assert_near(case.attend_lse()[1], sums.logsumexp(0))


@pytest.mark.parametrize("programs", [1, 50, 132, 133, 444, 1764])
def test_keys_are_split_where_that_fills_the_gpu(programs):
    def idle(splits: int):
        waves = programs * splits / 132
        return 1 - waves / math.ceil(waves)

    splits = attention.choose_splits(programs, 132)
    fullest = 1 - min(idle(n) for n in range(1, attention.MAX_SPLITS + 1))
    assert 1 - idle(splits) >= fullest / attention.SPLIT_GAIN
    assert all(1 - idle(fewer) < fullest / attention.SPLIT_GAIN for fewer in range(1, splits))


def test_slots_on_the_device_and_on_the_host_give_the_same():
    case = make_case(own_tokens=9)
    assert torch.equal(case.attend(), case.with_slots_on_the_device().attend())


def test_a_query_that_is_not_contiguous_is_read_right():
    case = make_case(own_tokens=9)
    strided = case.but(q=case.q.transpose(1, 2).contiguous().transpose(1, 2))
    assert not strided.q.is_contiguous()
    assert torch.equal(case.attend(), strided.attend())


def test_slots_that_are_not_contiguous_are_refused():
    case = make_case()
    strided = case.but(keys=case.keys.transpose(2, 3).contiguous().transpose(2, 3))
    with pytest.raises(ValueError, match="not contiguous"):
        strided.attend()


def test_a_batch_equals_its_rows_one_by_one():
    # what a tail reads past its end is the next row's
    case = make_case(own_tokens=9, batch=2)
    rows = [case.row(index).attend_lse(num_splits=2) for index in range(2)]
    for found, expected in zip(case.attend_lse(num_splits=2), zip(*rows, strict=True), strict=True):
        assert torch.equal(found, torch.cat(expected))


@pytest.mark.parametrize(
    "tile",
    [
        Tile(64, 16, 4, 1, descriptors=True),
        Tile(64, 16, 4, 1, descriptors=False, carried=True),
        Tile(16, 64, 4, 1, descriptors=True, carried=True),
    ],
    ids=str,
)
def test_other_tiles_and_loads_through_pointers_give_the_same(tile, monkeypatch):
    monkeypatch.setattr(attention, "forward_tile", lambda _: tile)
    case = make_case(own_tokens=9, num_heads=1)
    exact = case.wide().attend_lse("reference")
    for found, expected in zip(case.attend_lse(num_splits=2), exact, strict=True):
        assert_near(found, expected)


def test_triton_takes_the_head_dims_it_has_tiles_for():
    case = make_case(head_dim=48)
    with pytest.raises(ValueError, match=r"head dim is 48; on Triton .* \(32, 64, 128\)"):
        case.attend()
    assert case.attend("sdpa").isfinite().all()


@pytest.mark.parametrize("awkward", AWKWARD)
def test_torchs_own_attention_agrees_with_the_twin(awkward):
    case = make_case(**AWKWARD[awkward]).wide()
    for placed in (case, case.with_slots_on_the_device()):
        assert_near(placed.attend("sdpa"), case.attend("reference"), atol=1e-12)


def test_torchs_attention_is_the_same_in_the_chips_fastest_version():
    case = make_case([], own_tokens=9)
    fastest = torch.ops.afstream.vendor_attention(case.q, *case.own)
    for found in (vendor_attention(case.q, *case.own), fastest):
        assert_near(found, case.exact())


@pytest.mark.parametrize("first", ["CUDNN_ATTENTION", "FLASH_ATTENTION"])
def test_torchs_order_is_settled_before_any_other_is_asked_for(first, monkeypatch):
    done = []
    whole = torch.nn.functional.scaled_dot_product_attention

    def attend(*args, **settings):
        done.append("attend")
        return whole(*args, **settings)

    @contextlib.contextmanager
    def ordered(order, set_priority):
        done.append(order[0].name)
        yield

    def order(with_priority):
        done.append("asked")
        return [getattr(torch.nn.attention.SDPBackend, first)]

    monkeypatch.setattr(vendor.functional, "scaled_dot_product_attention", attend)
    monkeypatch.setattr(vendor, "sdpa_kernel", ordered)
    monkeypatch.setattr(vendor, "_cur_sdpa_kernel_backends", order)
    vendor.attention_order.cache_clear()
    case = make_case([], own_tokens=9)
    for _ in range(2):
        torch.ops.afstream.vendor_attention(case.q, *case.own)
    vendor.attention_order.cache_clear()
    # the context costs more than it gives where cuDNN comes first anyway
    call = ["attend"] if first == "CUDNN_ATTENTION" else ["CUDNN_ATTENTION", "attend"]
    assert done == ["attend", "asked", *call, *call]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_segment_reads_no_slot(backend):
    case = make_case((-1, 2, 3))
    assert case.keys[:, 0].isnan().all()
    for placed in (case, case.with_slots_on_the_device()):
        assert placed.attend(backend).isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_sums_are_float32_and_without_gradient(backend):
    case = make_case((2,), dtype=torch.bfloat16, num_tokens=3, slot_tokens=3)
    out, lse = case.but(q=case.q.requires_grad_()).attend_lse(backend)
    assert lse.dtype == torch.float32
    assert (out.requires_grad, lse.requires_grad) == (True, False)
