"""Linear maps without gradients: weights in the CPU's own layout, GELU within the product."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from afstream_kernels.dispatch import AnyBackend, resolve, runs_as_on_gpu

# where the layout was measured to be faster, see benchmarks/cpu_path.py
PACKED_CAPABILITY = "AVX512"


def pack_weight(weight: Tensor) -> Tensor | None:
    """A copy of a weight [out, in] in oneDNN's layout, None where plain weights serve as well.

    Products with a plain weight copy it into such a layout at every call.
    """
    capable = torch.backends.cpu.get_cpu_capability().startswith(PACKED_CAPABILITY)
    known = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    if not (known and capable and torch.backends.mkldnn.is_available()):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """`x @ weight.T + bias` [..., out] with a weight of `pack_weight`, without gradients.

    Args:
        x: [..., in].
        packed: the weight.
        bias: [out].
        gelu: apply GELU (its tanh form) while the product is written.
    """
    name, form = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], form)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor, *, backend: AnyBackend = None) -> Tensor:
    """`gelu(x @ weight.T + bias)`, GELU in its tanh form.

    On a GPU it is applied in the product's epilogue, before the product is rounded and written.
    Torch's operator for that has no gradient, and on a CPU the other form of GELU; the twin runs
    there, and for the backend `reference`.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out].
        backend: a `Backend` chosen before, or its name; see `choose_backend`.
    """
    if runs_as_on_gpu(x) and not torch.is_grad_enabled() and resolve(backend, x).fused:
        rows = torch.ops.aten._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        return rows.unflatten(0, x.shape[:-1])
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")
