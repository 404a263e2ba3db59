"""The twins against plain mathematics and against their own identities, in float64."""

import math

import pytest
import torch
from tests.kernels.cases import make_case, random
from torch.testing import assert_close

from afstream_kernels import (
    copy_slots,
    norm_rope,
    norm_rope_write,
    reference,
    rope_shift_tables,
    rope_tables,
    slot_attention,
)

GRID = (3, 2, 5)
TOKENS = 3 * 2 * 5
HEADS, DIM = 2, 32
WIDE = torch.float64


def wide(*shape: int):
    return random(*shape, dtype=WIDE)


def tables_at(start: int):
    return rope_tables(start, grid=GRID, head_dim=DIM, dtype=WIDE)


def shift_by(*offsets: int):
    return rope_shift_tables(offsets, head_dim=DIM, dtype=WIDE)


def stand(x, start: int):
    """Rotate x [..., T, H, D] as a block whose first latent frame is at `start`."""
    cos, sin = tables_at(start)
    return reference.apply_rope(x, cos[:, None], sin[:, None])


def plain_attention(q, keys, values):
    scores = torch.einsum("bthd,bkhd->bhtk", q, keys) / math.sqrt(DIM)
    return torch.einsum("bhtk,bkhd->bthd", scores.softmax(-1), values), scores.logsumexp(-1)


def test_pairs_go_to_time_rows_and_columns_in_that_order():
    cos, sin = tables_at(4)
    angles = torch.atan2(sin, cos)
    token = 1 * 2 * 5 + 1 * 5 + 2  # frame 1, row 1, column 2
    # 16 pairs: 6 of time, 5 of rows, 5 of columns; the first of each turns fastest
    expected = {
        0: math.remainder(5.0, math.tau),
        1: 5 * 10000 ** (-1 / 6),
        6: 1.0,
        11: 2.0,
        12: 2 * 10000 ** (-1 / 5),
    }
    assert_close(angles[token, list(expected)], torch.tensor(list(expected.values()), dtype=WIDE))


def test_rotation_turns_interleaved_pairs():
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    quarter = torch.tensor([[math.pi / 2, math.pi / 2]])
    shifted = reference.apply_rope(x, quarter.cos(), quarter.sin())
    assert_close(shifted, torch.tensor([[0.0, 1.0, -1.0, 0.0]]))


@pytest.mark.parametrize(("start", "offset"), [(0, 0), (0, 18), (5, 3), (12, -7), (0, 10_000)])
def test_a_turned_block_stands_where_a_rotated_one_would(start, offset):
    x = wide(1, TOKENS, HEADS, DIM)
    shifted = reference.apply_rope(stand(x, start), *shift_by(offset))
    assert_close(shifted, stand(x, start + offset), rtol=0, atol=1e-11)


def test_scores_depend_on_differences_only():
    q, k = wide(TOKENS, HEADS, DIM), wide(TOKENS, HEADS, DIM)

    def scores(query_at: int, key_at: int):
        return torch.einsum("thd,khd->htk", stand(q, query_at), stand(k, key_at))

    assert_close(scores(18, 6), scores(12, 0), rtol=0, atol=1e-12)
    assert not torch.allclose(scores(18, 6), scores(13, 0))


def test_rms_norm_runs_over_all_heads_in_float32_at_least():
    x = torch.randn(2, 3, 64).to(torch.bfloat16)
    weight = torch.rand(64).to(torch.bfloat16)
    wide = x.float()
    expected = (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()).to(torch.bfloat16)
    found = reference.rms_norm(x, weight, 1e-6)
    assert_close(found, expected * weight, rtol=2**-7, atol=1e-6)


def test_norm_rope_is_norm_then_heads_then_rotation():
    x, weight = wide(2, TOKENS, HEADS * DIM), wide(HEADS * DIM)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    found = reference.norm_rope(x, weight, *tables_at(4), num_heads=HEADS, eps=1e-6)
    assert_close(found, stand(normed.reshape(2, TOKENS, HEADS, DIM), 4))


@pytest.mark.parametrize("vectors", [(2, 3, 1, 6), (1, 1, 1, 6)], ids=["of frames", "of all"])
def test_modulation_is_layer_norm_then_scale_and_shift(vectors):
    x, shift, scale = wide(2, 3, 4, 6), wide(*vectors), wide(1, 1, 1, 6)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 0.1).sqrt()
    found = reference.modulate(x, shift, scale, eps=0.1)
    assert_close(found, normed * (1 + scale) + shift)


@pytest.mark.parametrize("starts", [(0,), (0, 6, 12, 15, 18), (103, 0, 106)], ids=str)
@pytest.mark.parametrize("with_own", [False, True], ids=["slots", "slots and own"])
def test_segments_equal_everything_rotated_at_its_true_position(starts, with_own):
    query_at = max(starts) + 3
    slots = list(range(len(starts)))[::-1]
    q, keys, values = wide(2, TOKENS, HEADS, DIM), *wide(2, 2, 5, TOKENS, HEADS, DIM)
    own = tuple(wide(2, 2, TOKENS, HEADS, DIM)) if with_own else None

    true_keys = [stand(keys[:, slot], start) for slot, start in zip(slots, starts, strict=True)]
    true_values = [values[:, slot] for slot in slots]
    if own is not None:
        true_keys.append(stand(own[0], query_at))
        true_values.append(own[1])
        own = stand(own[0], 0), own[1]
    expected = plain_attention(
        stand(q, query_at), torch.cat(true_keys, dim=1), torch.cat(true_values, dim=1)
    )

    offsets = [query_at - start for start in starts]
    found = reference.slot_attention(
        stand(q, 0), stand(keys, 0), values, torch.tensor(slots), *shift_by(*offsets), own
    )
    assert_close(found, expected, rtol=0, atol=1e-11)


def test_a_missing_segment_is_as_if_it_were_not_listed():
    case = make_case((-1, 3, -1)).wide()
    alone = case.but(slots=[3], cos=case.cos[1:2], sin=case.sin[1:2])
    assert_close(case.attend_lse("reference"), alone.attend_lse("reference"))


def test_with_nothing_to_see_the_output_is_0_and_the_log_sum_minus_infinity():
    for slots in ((), (-1, -1)):
        out, lse = make_case(slots).wide().attend_lse("reference")
        assert_close(out, torch.zeros_like(out))
        assert_close(lse, torch.full_like(lse, -math.inf))


def test_log_sums_are_float32_at_least():
    assert make_case(dtype=torch.bfloat16).attend_lse("reference")[1].dtype == torch.float32
    assert make_case().wide().attend_lse("reference")[1].dtype == WIDE


def test_keys_go_into_slots_one_stretch_after_the_other():
    q, k = wide(2, TOKENS, HEADS * DIM), wide(2, 2 * TOKENS, HEADS * DIM)
    q_weight, k_weight = wide(2, HEADS * DIM)
    cos, sin = tables_at(0)
    keys = torch.full((2, 4, TOKENS, HEADS, DIM), torch.nan, dtype=WIDE)
    out = reference.norm_rope_write(q, k, q_weight, k_weight, cos, sin, keys, [3, 1], eps=1e-6)

    def alone(x, weight):
        return reference.norm_rope(x, weight, cos, sin, num_heads=HEADS, eps=1e-6)

    assert_close(out, alone(q, q_weight))
    assert_close(keys[:, 3], alone(k[:, :TOKENS], k_weight))
    assert_close(keys[:, 1], alone(k[:, TOKENS:], k_weight))
    assert keys[:, [0, 2]].isnan().all()


def test_a_copied_slot_is_turned_in_its_keys_only():
    keys, values = wide(2, 3, 2, 4, TOKENS, HEADS, DIM)
    to_keys, to_values = torch.zeros(2, 3, 2, 3, TOKENS, HEADS, DIM, dtype=WIDE)
    shifts = shift_by(5, -2)
    reference.copy_slots(stand(keys, 0), values, to_keys, to_values, [3, 1], [0, 2], shifts)
    assert_close(to_keys[:, :, 0], stand(keys[:, :, 3], 5))
    assert_close(to_keys[:, :, 2], stand(keys[:, :, 1], -2))
    assert_close(to_values[:, :, [0, 2]], values[:, :, [3, 1]])
    assert not to_keys[:, :, 1].any()
    assert not to_values[:, :, 1].any()


def test_norm_and_attention_are_differentiable():
    cos, sin = rope_tables(2, grid=(1, 2, 2), head_dim=4, dtype=WIDE)
    shifts = rope_shift_tables([3, 1], head_dim=4, dtype=WIDE)
    x, weight, values = wide(1, 4, 8), wide(8), wide(1, 4, 2, 4)
    cached_keys, cached_values = wide(2, 1, 2, 3, 2, 4)
    slots = torch.tensor([1, -1])

    def attend(x, weight, own_values):
        heads = reference.norm_rope(x, weight, cos, sin, num_heads=2, eps=1e-6)
        own = heads.flip(1), own_values
        return reference.slot_attention(heads, cached_keys, cached_values, slots, *shifts, own)

    inputs = [part.requires_grad_() for part in (x, weight, values)]
    assert torch.autograd.gradcheck(attend, inputs)


WRONG_SHAPES = {
    "keys and values of another head dim": (
        {"keys": wide(2, 5, 39, 2, 16), "values": wide(2, 5, 39, 2, 16)},
        r"keys \(2, 5, 39, 2, 16\)",
    ),
    "keys and values of different slots": ({"values": wide(2, 4, 39, 2, 32)}, "and values"),
    "fewer slots than tables": ({"slots": [3, 0]}, r"2 slots .* both must be \(2, 16\)"),
    "tables of another head dim": ({"sin": wide(3, 8)}, r"\(3, 8\); both must be \(3, 16\)"),
    "own keys and values of different number": (
        {"own": (wide(2, 4, 2, 32), wide(2, 5, 2, 32))},
        r"own keys are \(2, 4, 2, 32\) and values \(2, 5, 2, 32\)",
    ),
    "own keys of another batch": ({"own": tuple(wide(2, 1, 4, 2, 32))}, "own keys"),
}


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("wrong", WRONG_SHAPES)
def test_attention_names_the_shapes_that_do_not_fit(wrong, backend):
    changed, message = WRONG_SHAPES[wrong]
    case = make_case(batch=2).wide().but(**changed)
    with pytest.raises(ValueError, match=message):
        slot_attention(**vars(case), backend=backend)


def test_norms_name_the_tables_and_keys_that_do_not_fit():
    x, weight, keys = wide(1, 6, 8), wide(8), wide(1, 2, 3, 2, 4)
    fitting, short, broad = wide(6, 2), wide(5, 2), wide(6, 4)
    with pytest.raises(ValueError, match=r"\(5, 2\); both must be \(6, 2\)"):
        norm_rope(x, weight, fitting, short, num_heads=2, eps=1e-6)
    with pytest.raises(ValueError, match=r"tables \(6, 4\)"):
        norm_rope_write(x, x, weight, weight, broad, broad, keys, [0, 1], eps=1e-6)
    with pytest.raises(ValueError, match="k has 6 tokens for 1 slots of 3; it must have 3"):
        norm_rope_write(x, x, weight, weight, fitting, fitting, keys, [0], eps=1e-6)


def test_copies_name_the_slots_and_buffers_that_do_not_fit():
    x, other = wide(1, 1, 3, 2, 1, 4), wide(1, 1, 3, 5, 1, 4)
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        copy_slots(x, x, x, x, [0, 1], [2])
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 5, 1, 4\); only the number of slots"):
        copy_slots(x, x, other, other, [0], [2])
