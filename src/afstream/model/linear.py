"""Linear maps whose weights are packed once for a stream on a CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from afstream_kernels import AnyBackend, gelu_linear, pack_weight, packed_linear


class _Packed(NamedTuple):
    """A weight in the CPU's own layout, and the state of the weight that it was made from."""

    weight: Tensor
    address: int
    version: int


class Linear(nn.Linear):
    """`nn.Linear`, with a second copy of its weight in the CPU's own layout after `pack`.

    The copy serves calls without gradients, until the weight changes.
    """

    _packed: _Packed | None = None

    def pack(self) -> None:
        """Make the copy, where the processor has such a layout."""
        weight = self.weight
        # weights made in inference mode do not tell when they change
        packed = None if weight.is_inference() else pack_weight(weight)
        if packed is not None:
            self._packed = _Packed(packed, weight.data_ptr(), weight._version)

    @property
    def packed(self) -> Tensor | None:
        """The copy, None where it cannot serve."""
        packed = self._packed
        if packed is None or torch.is_grad_enabled():
            return None
        same = packed.version == self.weight._version and packed.address == self.weight.data_ptr()
        return packed.weight if same else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """[..., in] to [..., out]."""
        packed = self.packed
        if packed is None:
            return functional.linear(input, self.weight, self.bias)
        return packed_linear(input, packed, self.bias)

    def gelu(self, x: Tensor, backend: AnyBackend) -> Tensor:
        """`forward`, then GELU in its tanh form, in one operator where there is one."""
        packed = self.packed
        if packed is None:
            return gelu_linear(x, self.weight, self.bias, backend=backend)
        return packed_linear(x, packed, self.bias, gelu=True)
