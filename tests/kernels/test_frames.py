"""Norm and SiLU behind the frames before them: the twin by its words, Triton against the twin."""

from typing import Any

import pytest
import torch
from tests.kernels.cases import DTYPES, assert_near, error, random

from afstream_kernels import add_up, choose_backend, norm_silu

PAST = 2
BACKENDS = ["triton", "reference"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "triton":
        pytest.importorskip("triton")
    return request.param


def tensors(num_frames=3, *, batch=1, size=(2, 3), channels=12, dtype=torch.float32):
    """x, weight, past, bias and residual."""
    pixels = (*size, channels)
    return (
        random(batch, num_frames, *pixels, dtype=dtype),
        random(channels, dtype=dtype),
        random(batch, PAST, *pixels, dtype=dtype),
        random(channels, dtype=dtype),
        random(batch, num_frames, *pixels, dtype=dtype),
    )


def exact(x, weight, past, bias=None, residual=None):
    """What the op means, in float64 and other words: its frames, and the sum."""
    total = x.double()
    total = total if bias is None else total + bias.double()
    total = total if residual is None else total + residual.double()
    normed = total / total.square().mean(-1, keepdim=True).sqrt() * weight.double()
    return torch.cat([past.double(), normed / (1 + (-normed).exp())], 1), total


@pytest.mark.parametrize("channels", [1, 12, 32, 96])
@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_past_and_results_stand_in_one_buffer(backend, num_frames, channels):
    x, weight, past, *_ = tensors(num_frames, batch=2, channels=channels)
    before = x.clone()
    frames, last = norm_silu(x, weight, past, backend=backend)
    assert_near(frames, exact(x, weight, past)[0], atol=4e-6)
    assert torch.equal(frames[:, :PAST], past)
    assert torch.equal(last, frames[:, -PAST:])
    assert last.is_contiguous()
    assert torch.equal(x, before)


def test_what_is_kept_is_a_copy(backend):
    x, weight, past, *_ = tensors()
    frames, last = norm_silu(x, weight, past, backend=backend)
    kept = last.clone()
    frames.zero_()
    past.zero_()
    assert torch.equal(last, kept)


@pytest.mark.parametrize("keep_sum", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_what_is_added_before_the_norm(backend, keep_sum, with_bias, with_residual):
    x, weight, past, bias, residual = tensors()
    bias, residual = bias if with_bias else None, residual if with_residual else None
    wanted, total = exact(x, weight, past, bias, residual)
    before = x.clone()
    others: dict[str, Any] = {"bias": bias, "residual": residual, "keep_sum": keep_sum}
    frames, _ = norm_silu(x, weight, past, **others, backend=backend)
    assert_near(frames, wanted, atol=4e-6)
    assert_near(x, total if keep_sum else before, atol=1e-6)


def test_more_pixels_than_a_program_takes(monkeypatch):
    pytest.importorskip("triton")
    from afstream_kernels.triton import frames as kernels

    # 4 pixels a program, of 15: the last one is not full
    monkeypatch.setattr(kernels, "TILE", 64)
    x, weight, past, bias, residual = tensors(size=(3, 5), batch=2)
    others: dict[str, Any] = {"bias": bias, "residual": residual}
    frames, last = norm_silu(x, weight, past, **others, backend="triton")
    assert_near(frames, exact(x, weight, past, bias, residual)[0], atol=4e-6)
    assert torch.equal(last, frames[:, -PAST:])


def test_a_pixel_of_zeros_stays_zero(backend):
    x, weight, past, *_ = tensors()
    frames, _ = norm_silu(x.zero_(), weight, past, backend=backend)
    assert torch.equal(frames[:, PAST:], torch.zeros_like(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_errs_at_most_twice_as_much_as_the_twin(dtype):
    pytest.importorskip("triton")
    x, weight, past, bias, residual = tensors(channels=96, dtype=DTYPES[dtype])
    wanted, total = exact(x, weight, past, bias, residual)
    others: dict[str, Any] = {"bias": bias, "residual": residual, "keep_sum": True}
    errors = {}
    for backend in BACKENDS:
        own = x.clone()
        frames, _ = norm_silu(own, weight, past, **others, backend=backend)
        assert frames.dtype == DTYPES[dtype]
        errors[backend] = torch.stack([error(frames, wanted), error(own, total)])
    assert (errors["triton"] <= 2 * errors["reference"]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 12, 96])
def test_sums_in_place(monkeypatch, backend, channels, dtype):
    if backend == "triton":
        from afstream_kernels.triton import frames as kernels

        monkeypatch.setattr(kernels, "TILE", 64)
    x, _, _, bias, residual = tensors(size=(3, 5), channels=channels, dtype=DTYPES[dtype])
    expected = x.double() + bias.double() + residual.double()
    add_up(x, bias, residual, backend=backend)
    # one rounding
    assert torch.equal(x, expected.float().to(DTYPES[dtype])) or dtype == "float32"
    assert_near(x, expected, atol=1e-6 if dtype == "float32" else 0.05)


@pytest.mark.parametrize("name", ["weight", "past", "bias", "residual"])
def test_what_does_not_fit_is_told(backend, name):
    x, weight, past, bias, residual = tensors()
    given: dict[str, Any] = {"weight": weight, "past": past, "bias": bias, "residual": residual}
    given[name] = given[name][..., :-1]
    with pytest.raises(ValueError, match=rf"x is \(1, 3, 2, 3, 12\) and {name} .* must be"):
        norm_silu(x, **given, backend=backend)


def test_frames_that_are_not_channels_last_are_refused(backend):
    x, weight, past, *_ = tensors()
    with pytest.raises(ValueError, match="not contiguous"):
        norm_silu(x.transpose(2, 3).contiguous().transpose(2, 3), weight, past, backend=backend)


def test_the_backend_is_chosen_by_the_tensors():
    x, weight, past, *_ = tensors()
    chosen = choose_backend("reference", device="cpu", dtype=x.dtype)
    frames, _ = norm_silu(x, weight, past, backend=chosen)
    assert torch.equal(frames, norm_silu(x, weight, past)[0])
