"""Gradients of Triton's segment attention, in the interpreter, against the twin's in float64."""

from typing import Any

import pytest
import torch
from tests.kernels.cases import assert_near, error, make_case, random

pytest.importorskip("triton")

from afstream_kernels.triton import attention_backward
from afstream_kernels.triton.tiles import Tile

AWKWARD: dict[str, dict[str, Any]] = {
    "slots": {},
    "slots and own": {"own_tokens": 45},
    "own keys of another number": {"num_tokens": 33, "own_tokens": 40},
    "whole tiles only": {"num_tokens": 32, "slot_tokens": 32, "own_tokens": 32},
    "one query and one own key": {"num_tokens": 1, "own_tokens": 1},
    "the same slot twice": {"slots": [1, 1], "own_tokens": 9},
    "own keys only": {"slots": [], "own_tokens": 45},
    "own keys and missing segments": {"slots": [-1, -1], "own_tokens": 45},
    "no segments": {"slots": []},
    "missing segments only": {"slots": [-1, -1]},
}


def gradients(case, upstream, backend):
    """Of the query and, where there are some, of its own keys and values."""
    leaves = [part.clone().requires_grad_() for part in (case.q, *(case.own or ()))]
    out = case.but(q=leaves[0], own=tuple(leaves[1:]) or None).attend(backend)
    return torch.autograd.grad(out, leaves, upstream.to(out.dtype))


def upstream_of(case):
    return random(*case.q.shape, dtype=case.q.dtype)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_gradients_equal_the_twins(awkward):
    case = make_case(**AWKWARD[awkward])
    upstream = upstream_of(case)
    exact = gradients(case.wide(), upstream, "reference")
    for found, expected in zip(gradients(case, upstream, "triton"), exact, strict=True):
        assert_near(found, expected)


@pytest.mark.parametrize("head_dim", [32, 128])
def test_half_precision_errs_at_most_twice_as_much_as_torch(head_dim):
    case = make_case(dtype=torch.bfloat16, head_dim=head_dim, own_tokens=33)
    upstream = upstream_of(case)
    exact = gradients(case.wide(), upstream, "reference")
    torchs = gradients(case, upstream, "sdpa")
    for found, by_torch, expected in zip(
        gradients(case, upstream, "triton"), torchs, exact, strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert error(found, expected) <= 2 * error(by_torch, expected)


def test_torchs_gradients_equal_the_twins():
    case = make_case(own_tokens=33).wide()
    upstream = upstream_of(case)
    exact = gradients(case, upstream, "reference")
    for found, expected in zip(gradients(case, upstream, "sdpa"), exact, strict=True):
        assert_near(found, expected, atol=1e-12)


def test_where_nothing_is_seen_the_gradient_is_0():
    case = make_case((-1, -1))
    (to_q,) = gradients(case, upstream_of(case), "triton")
    assert torch.equal(to_q, torch.zeros_like(to_q))


def test_a_batch_equals_its_rows_one_by_one():
    case = make_case(own_tokens=9, batch=2, num_tokens=9, slot_tokens=5)
    upstream = upstream_of(case)
    rows = [gradients(case.row(index), upstream[index : index + 1], "triton") for index in range(2)]
    for found, expected in zip(
        gradients(case, upstream, "triton"), zip(*rows, strict=True), strict=True
    ):
        assert torch.equal(found, torch.cat(expected))


def test_tensors_that_are_not_contiguous_are_read_right():
    case = make_case(own_tokens=9, num_tokens=5, slot_tokens=7)
    upstream = upstream_of(case)
    expected = gradients(case, upstream, "triton")

    def strided(x):
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    same = case.but(q=strided(case.q), own=tuple(map(strided, case.own)))
    for found, other in zip(gradients(same, strided(upstream), "triton"), expected, strict=True):
        assert torch.equal(found, other)


def test_cached_slots_get_no_gradient():
    case = make_case((2,), num_tokens=3, slot_tokens=3)
    leaves = [part.requires_grad_() for part in (case.q, case.keys, case.values)]
    _, *cached = torch.autograd.grad(case.attend().sum(), leaves, allow_unused=True)
    assert cached == [None, None]


@pytest.mark.parametrize(
    "tile", [Tile(32, 32, 4, 1, descriptors=False), Tile(64, 16, 4, 1, descriptors=True)], ids=str
)
def test_other_tiles_and_loads_through_pointers_give_the_same(tile, monkeypatch):
    monkeypatch.setattr(attention_backward, "backward_tile", lambda _: tile)
    case = make_case(own_tokens=41, num_heads=1)
    upstream = upstream_of(case)
    exact = gradients(case.wide(), upstream, "reference")
    for found, expected in zip(gradients(case, upstream, "triton"), exact, strict=True):
        assert_near(found, expected)
