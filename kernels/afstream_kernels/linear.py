"""Linear maps without gradients: into slots, by weights in the CPU's own layout, with GELU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op
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


def linear_write(
    x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]
) -> None:
    """Apply a linear map and write its results into slots, one after the other; no gradients.

    Args:
        x: [B, len(slots) * R, C].
        weight: [C, C]; bias [C].
        bias: see weight.
        values: [B, N, R, H, D] contiguous, changed in place; C = H * D.
        slots: the slot into which each R rows are written.
    """
    if torch.compiler.is_compiling():
        # torch.compile makes a new tensor of what is written through `out`, and copies that
        _linear_write(x, weight, bias, values, slots)
    else:
        _write(x, weight, bias, values, slots)


def _write(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]) -> None:
    for part, slot in zip(x.split(values.shape[2], dim=1), slots, strict=True):
        for rows, out in zip(part, values[:, slot].flatten(2), strict=True):
            torch.addmm(bias, rows, weight.t(), out=out)


@custom_op("afstream::linear_write", mutates_args={"values"})
def _linear_write(
    x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]
) -> None:
    _write(x, weight, bias, values, slots)


@_linear_write.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, slots: Sequence[int]) -> None:
    del x, weight, bias, values, slots
