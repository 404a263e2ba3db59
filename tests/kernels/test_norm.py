"""Triton's fused norms, in the interpreter, against the twins in float64."""

import pytest
import torch
from tests.kernels.cases import DTYPES, assert_near, error, random

from afstream_kernels import modulate, norm_rope, norm_rope_write, reference, rope_tables

pytest.importorskip("triton")

from afstream_kernels.triton import norm

GRID = (3, 1, 3)
TOKENS = 3 * 1 * 3
EPS = 1e-6
# heads and head dims: one width that is a power of two, two that are not, one head alone
SIZES = [(2, 32), (3, 32), (3, 20), (1, 6)]


def tables_for(head_dim: int, start: int = 4):
    return rope_tables(start, grid=GRID, head_dim=head_dim)


def exact_norm_rope(x, weight, cos, sin, num_heads: int):
    wide = (part.double() for part in (x, weight, cos, sin))
    return reference.norm_rope(*wide, num_heads=num_heads, eps=EPS)


@pytest.mark.parametrize(("num_heads", "head_dim"), SIZES)
def test_norm_rope_equals_its_twin(num_heads, head_dim):
    width = num_heads * head_dim
    x, weight, tables = random(2, TOKENS, width), random(width), tables_for(head_dim)
    found = norm_rope(x, weight, *tables, num_heads=num_heads, eps=EPS, backend="triton")
    assert_near(found, exact_norm_rope(x, weight, *tables, num_heads))


def test_the_mean_square_is_kept_from_0_by_eps():
    x, weight, tables = torch.zeros(1, TOKENS, 64), torch.ones(64), tables_for(32)
    found = norm_rope(x, weight, *tables, num_heads=2, eps=EPS, backend="triton")
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norm_rope_errs_at_most_twice_as_much_as_its_twin(dtype):
    x, weight = random(1, TOKENS, 96, dtype=DTYPES[dtype]), random(96, dtype=DTYPES[dtype])
    tables = tables_for(32)
    exact = exact_norm_rope(x, weight, *tables, 3)
    found, twin = (
        norm_rope(x, weight, *tables, num_heads=3, eps=EPS, backend=backend)
        for backend in ("triton", "reference")
    )
    assert found.dtype == twin.dtype == DTYPES[dtype]
    assert error(found, exact) <= 2 * error(twin, exact)


def gradients(x, weight, tables, upstream, num_heads, backend):
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    out = norm_rope(*leaves, *tables, num_heads=num_heads, eps=EPS, backend=backend)
    return torch.autograd.grad(out, leaves, upstream)


@pytest.mark.parametrize(("num_heads", "head_dim"), SIZES)
def test_gradients_equal_the_twins(num_heads, head_dim, monkeypatch):
    # so that programs have 4 or 5 rows each, as they do where there are many
    monkeypatch.setattr(norm, "BACKWARD_PROGRAMS", 4)
    width = num_heads * head_dim
    x, weight, tables = random(2, TOKENS, width), random(width), tables_for(head_dim)
    # not contiguous, as attention's gradients may be
    upstream = random(2, num_heads, TOKENS, head_dim).transpose(1, 2)
    found = gradients(x, weight, tables, upstream, num_heads, "triton")
    wide = x.double(), weight.double(), [table.double() for table in tables], upstream.double()
    exact = gradients(*wide, num_heads, "reference")
    assert_near(found[0], exact[0])
    # a sum over 18 tokens
    assert_near(found[1], exact[1], atol=1e-5)


def test_half_precision_gradients_err_at_most_twice_as_much_as_the_twins():
    x, weight = random(1, TOKENS, 96, dtype=torch.bfloat16), random(96, dtype=torch.bfloat16)
    tables, upstream = tables_for(32), random(1, TOKENS, 3, 32, dtype=torch.bfloat16)
    wide = x.double(), weight.double(), [table.double() for table in tables], upstream.double()
    exact = gradients(*wide, 3, "reference")
    twins = gradients(x, weight, tables, upstream, 3, "reference")
    found = gradients(x, weight, tables, upstream, 3, "triton")
    for part, twin, expected in zip(found, twins, exact, strict=True):
        assert part.dtype == torch.bfloat16
        assert error(part, expected) <= 2 * error(twin, expected)


def test_an_input_that_is_not_contiguous_is_read_right():
    both, weight, tables = random(2, TOKENS, 2 * 64), random(64), tables_for(32)
    x = both[..., 64:]
    found, expected = (
        norm_rope(y, weight, *tables, num_heads=2, eps=EPS, backend="triton")
        for y in (x, x.contiguous())
    )
    assert torch.equal(found, expected)


# slots in the order of the keys' stretches, and tokens of a slot: as many as the query's or fewer
STRETCHES = {
    "one slot": ([2], TOKENS),
    "three slots in another order": ([3, 0, 2], TOKENS),
    "slots shorter than the block": ([3, 1], 6),
    "no slot": ([], TOKENS),
}


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_keys_go_into_their_slots_and_nowhere_else(stretch, backend):
    slots, slot_tokens = STRETCHES[stretch]
    num_heads, head_dim, width = 3, 20, 60
    q, k = random(2, TOKENS, width), random(2, len(slots) * slot_tokens, width)
    q_weight, k_weight = random(2, width)
    cos, sin = tables_for(head_dim)
    keys = torch.full((2, 4, slot_tokens, num_heads, head_dim), torch.nan)
    out = norm_rope_write(q, k, q_weight, k_weight, cos, sin, keys, slots, eps=EPS, backend=backend)
    assert_near(out, exact_norm_rope(q, q_weight, cos, sin, num_heads))
    own = cos[:slot_tokens], sin[:slot_tokens]
    for index, slot in enumerate(slots):
        rows = k[:, index * slot_tokens :][:, :slot_tokens]
        assert_near(keys[:, slot], exact_norm_rope(rows, k_weight, *own, num_heads))
    others = [slot for slot in range(4) if slot not in slots]
    assert keys[:, others].isnan().all()


def test_query_and_keys_in_one_launch_equal_two():
    # in bfloat16 too, to the last bit
    q, k = random(2, 1, TOKENS, 64, dtype=torch.bfloat16)
    weight, tables = random(64, dtype=torch.bfloat16), tables_for(32)
    keys = torch.zeros(1, 2, TOKENS, 2, 32, dtype=torch.bfloat16)
    out = norm_rope_write(q, k, weight, weight, *tables, keys, [1], eps=EPS, backend="triton")
    alone = norm_rope(k, weight, *tables, num_heads=2, eps=EPS, backend="triton")
    assert torch.equal(keys[:, 1], alone)
    assert torch.equal(out, norm_rope(q, weight, *tables, num_heads=2, eps=EPS, backend="triton"))


VECTORS = {
    "a vector a frame": ((2, 3, 1, 12), (2, 3, 1, 12)),
    "the same for the batch": ((1, 3, 1, 12), (1, 3, 1, 12)),
    "the same for all frames": ((2, 1, 1, 12), (2, 1, 1, 12)),
    "one for all": ((1, 1, 1, 12), (1, 1, 1, 12)),
    "shift and scale unlike": ((1, 1, 1, 12), (2, 3, 1, 12)),
}


@pytest.mark.parametrize("vectors", VECTORS)
def test_modulation_equals_its_twin(vectors):
    x, shift, scale = random(2, 3, 5, 12), *(random(*shape) for shape in VECTORS[vectors])
    found = modulate(x, shift, scale, eps=EPS, backend="triton")
    assert_near(found, reference.modulate(x.double(), shift.double(), scale.double(), eps=EPS))


def test_modulation_reads_slices_of_one_projection_where_they_stand():
    x, projection = random(2, 3, 5, 12), random(2, 3, 6, 1, 12)
    shift, scale = projection[:, :, 4], projection[:, :, 1]
    assert not shift.is_contiguous()
    found = modulate(x, shift, scale, eps=EPS, backend="triton")
    assert torch.equal(
        found, modulate(x, shift.contiguous(), scale.contiguous(), eps=EPS, backend="triton")
    )
    assert_near(found, reference.modulate(x.double(), shift.double(), scale.double(), eps=EPS))


def test_modulation_errs_at_most_twice_as_much_as_its_twin():
    x = random(1, 2, 5, 96, dtype=torch.bfloat16)
    shift, scale = random(2, 1, 2, 1, 96, dtype=torch.bfloat16)
    exact = reference.modulate(x.double(), shift.double(), scale.double(), eps=EPS)
    found, twin = (
        modulate(x, shift, scale, eps=EPS, backend=backend) for backend in ("triton", "reference")
    )
    assert found.dtype == twin.dtype == torch.bfloat16
    assert error(found, exact) <= 2 * error(twin, exact)


def test_where_modulation_needs_gradients_the_twin_runs():
    x, shift, scale = (random(1, 2, 3, 12).requires_grad_() for _ in range(3))
    shift, scale = shift[:, :, :1], scale[:, :, :1]
    found, twin = (
        torch.autograd.grad(modulate(x, shift, scale, eps=EPS, backend=backend).sum(), x)[0]
        for backend in ("triton", "reference")
    )
    assert torch.equal(found, twin)
