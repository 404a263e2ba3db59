"""The twins against plain mathematics and against their own identities."""

import math

import pytest
import torch
from torch.testing import assert_close

from afstream_kernels import (
    apply_rotation,
    norm_rotate,
    rms_norm,
    rotation_tables,
    segment_attention,
)

GRID = (3, 2, 5)
TOKENS = 3 * 2 * 5
HEADS, DIM = 2, 32


def tables(*starts: int, grid: tuple[int, int, int] = GRID):
    pairs = [rotation_tables(s, grid=grid, head_dim=DIM, dtype=torch.float64) for s in starts]
    cos, sin = (torch.stack(part) for part in zip(*pairs, strict=True))
    return cos, sin


def random(*shape: int):
    return torch.randn(*shape, dtype=torch.float64)


def test_pairs_go_to_time_rows_and_columns_in_that_order():
    cos, sin = rotation_tables(4, grid=GRID, head_dim=DIM, dtype=torch.float64)
    angles = torch.atan2(sin, cos)
    token = 1 * 2 * 5 + 1 * 5 + 2  # frame 1, row 1, column 2
    # 16 pairs: 6 of time, 5 of rows, 5 of columns; the first of each turns fastest
    wrapped = math.remainder(5.0, math.tau)
    assert_close(angles[token, 0], torch.tensor(wrapped, dtype=torch.float64))
    assert_close(angles[token, 6], torch.tensor(1.0, dtype=torch.float64))
    assert_close(angles[token, 11], torch.tensor(2.0, dtype=torch.float64))
    assert_close(angles[token, 12], torch.tensor(2 * 10000 ** (-1 / 5), dtype=torch.float64))


def test_rotation_turns_interleaved_pairs():
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    quarter = torch.tensor([[math.pi / 2, math.pi / 2]])
    assert_close(
        apply_rotation(x, quarter.cos(), quarter.sin()), torch.tensor([[0.0, 1.0, -1.0, 0.0]])
    )


def test_scores_depend_on_differences_only():
    q, k = random(1, HEADS, TOKENS, DIM), random(1, HEADS, TOKENS, DIM)

    def scores(query_at: int, key_at: int):
        (qc, kc), (qs, ks) = tables(query_at, key_at)
        return apply_rotation(q, qc, qs) @ apply_rotation(k, kc, ks).mT

    assert_close(scores(18, 6), scores(12, 0), rtol=0, atol=1e-12)


def test_rms_norm_runs_over_all_heads_in_float32_at_least():
    x = torch.randn(2, 3, 64).to(torch.bfloat16)
    weight = torch.rand(64).to(torch.bfloat16)
    wide = x.float()
    expected = (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()).to(torch.bfloat16)
    assert_close(rms_norm(x, weight, 1e-6), expected * weight, rtol=2**-7, atol=1e-6)


def reference_attention(q, keys, values, starts, query_start):
    """Everything rotated at its true position, one softmax over the concatenated keys."""
    cos, sin = tables(query_start)
    query = apply_rotation(q, cos[0], sin[0])
    turned = []
    for key, start in zip(keys, starts, strict=True):
        cos, sin = tables(start, grid=(key.shape[-2] // 10, 2, 5))
        turned.append(apply_rotation(key, cos[0], sin[0]))
    scores = query @ torch.cat(turned, dim=-2).mT / math.sqrt(DIM)
    return scores.softmax(-1) @ torch.cat(values, dim=-2)


@pytest.mark.parametrize("starts", [(0,), (0, 6, 12, 15, 18), (0, 103, 106)], ids=str)
def test_segments_equal_concatenated_keys_rotated_in_place(starts):
    query_at = starts[-1]
    q = random(2, HEADS, TOKENS, DIM)
    keys = [random(2, HEADS, TOKENS, DIM) for _ in starts]
    values = [random(2, HEADS, TOKENS, DIM) for _ in starts]
    own_cos, own_sin = (part[0] for part in tables(0))
    stored = [apply_rotation(key, own_cos, own_sin) for key in keys]
    found = segment_attention(q, stored, values, *tables(*(query_at - at for at in starts)))
    expected = reference_attention(q, keys, values, starts, query_at)
    assert_close(found, expected, rtol=0, atol=1e-12)


def test_order_of_segments_does_not_matter():
    offsets = [18, 6, 0]
    q = random(1, HEADS, TOKENS, DIM)
    keys = [random(1, HEADS, TOKENS, DIM) for _ in offsets]
    values = [random(1, HEADS, TOKENS, DIM) for _ in offsets]
    cos, sin = tables(*offsets)
    order = [2, 0, 1]
    shuffled = segment_attention(
        q, [keys[i] for i in order], [values[i] for i in order], cos[order], sin[order]
    )
    assert_close(segment_attention(q, keys, values, cos, sin), shuffled, rtol=0, atol=1e-13)


def test_segments_must_match_their_tables():
    q = random(1, HEADS, TOKENS, DIM)
    with pytest.raises(ValueError, match="1 keys, 1 values and 2 rotation tables"):
        segment_attention(q, [q], [q], *tables(0, 3))
    with pytest.raises(ValueError, match="at least one"):
        segment_attention(q, [], [], *tables(0))


def test_twins_are_differentiable():
    cos, sin = rotation_tables(2, grid=(1, 2, 2), head_dim=4, dtype=torch.float64)
    x = random(1, 4, 8).requires_grad_()
    weight = random(8).requires_grad_()
    cached = random(1, 2, 4, 4)
    both = torch.stack([cos, cos]), torch.stack([sin, sin])

    def attend(x, weight):
        heads = norm_rotate(x, weight, cos, sin, num_heads=2, eps=1e-6)
        return segment_attention(heads, [cached, heads], [cached, heads], *both)

    assert torch.autograd.gradcheck(attend, (x, weight))
