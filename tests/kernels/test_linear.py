"""Linear maps without gradients: GELU in the product, and weights in the CPU's own layout."""

import pytest
import torch
from tests.kernels.cases import random
from torch.nn import functional

from afstream_kernels import Backend, gelu_linear, pack_weight, packed_linear

FUSED = Backend("triton", fused=True)


def parts(dtype=torch.float32, device="cpu"):
    # outputs near 1, where the two forms of GELU differ
    x, weight, bias = random(2, 3, 5, 48), random(64, 48) / 7, random(64)
    return [part.to(device, dtype) for part in (x, weight, bias)]


def exact(x, weight, bias, *, gelu):
    wide = functional.linear(x.double(), weight.double(), bias.double())
    return functional.gelu(wide, approximate="tanh") if gelu else wide


@pytest.mark.parametrize("backend", [FUSED, "reference"])
def test_gelu_is_the_tanh_form(backend):
    """Torch's fused operator computes the other form on a CPU."""
    args = parts()
    with torch.no_grad():
        found = gelu_linear(*args, backend=backend)
    assert (found - exact(*args, gelu=True)).abs().max() < 2e-5


def test_gelu_has_gradients():
    x, weight, bias = (part.requires_grad_() for part in parts())
    gelu_linear(x, weight, bias, backend=FUSED).sum().backward()
    assert all(leaf.grad is not None for leaf in (x, weight, bias))


def test_on_a_gpu_gelu_keeps_shapes():
    x, weight, bias = parts(torch.bfloat16, "meta")
    with torch.no_grad():
        found = gelu_linear(x, weight, bias, backend=FUSED)
    assert found.shape == (2, 3, 5, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_in_the_product_errs_at_most_twice_as_much_as_its_twin(dtype):
    args = parts(dtype, "cuda")
    with torch.no_grad():
        found, twin = (gelu_linear(*args, backend=backend) for backend in (FUSED, "reference"))
    truth = exact(*args, gelu=True)
    assert (found - truth).abs().max() <= 2 * (twin - truth).abs().max()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_err_at_most_twice_as_much_as_plain_ones(dtype, gelu):
    x, weight, bias = parts(dtype)
    packed = pack_weight(weight)
    if packed is None:
        pytest.skip("this processor has no layout of its own")
    plain = functional.linear(x, weight, bias)
    plain = functional.gelu(plain, approximate="tanh") if gelu else plain
    truth = exact(x, weight, bias, gelu=gelu)
    found = packed_linear(x, packed, bias, gelu=gelu)
    assert found.dtype == dtype
    assert (found - truth).abs().max() <= 2 * (plain - truth).abs().max()


@pytest.mark.parametrize("weight", [random(4, 4).double(), random(4, 4).to("meta")])
def test_other_weights_stay_as_they_are(weight):
    assert pack_weight(weight) is None
