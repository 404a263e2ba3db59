"""What a measured operation consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from afstream.bench.kernels.ceilings import Ceilings
from afstream.bench.kernels.shapes import KernelShape
from afstream_kernels import Backend
from afstream_kernels.dispatch import runs_triton

Outputs = tuple[Tensor, ...]
Inputs = TypeVar("Inputs")

MS = 1e3
GIGA = 1e9
TERA = 1e12
# Largest error of a row, relative to the rows' root mean square, after one rounding or two.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """Where and at which sizes operations run.

    Attributes:
        shape: the sizes.
        device: where the tensors live.
        dtype: of queries, keys, values and activations.
        backends: which of our own implementations are measured; the first is the one that
            everything else is compared with.
        compiled: torch.compile is among what they are compared with.
    """

    shape: KernelShape
    device: torch.device
    dtype: torch.dtype
    backends: tuple[Backend, ...]
    compiled: bool

    def tolerance(self, roundings: int) -> float:
        """The error that is allowed to so many roundings."""
        return roundings * ROUNDING[self.dtype]

    def named_backends(self) -> dict[str, Backend]:
        """What operations other than attention run under the backends; `sdpa` is not theirs."""
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        named: dict[str, Backend] = {}
        for backend in self.backends:
            named.setdefault("triton" if runs_triton(backend, probe) else "reference", backend)
        return named

    def source(self) -> Callable[..., Tensor]:
        """A function that draws tensors of a shape; each source draws the same ones."""
        generator = torch.Generator(self.device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=self.device, dtype=self.dtype)

        return draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an operation cannot do without.

    Attributes:
        flops: multiplications and additions in matrix products; 0 where moving is all.
        moved_bytes: read and written once.
    """

    flops: float = 0.0
    moved_bytes: float

    def floor_ms(self, ceilings: Ceilings) -> float:
        """The time below which no implementation comes."""
        multiplying = self.flops / (ceilings.tflops * TERA)
        moving = self.moved_bytes / (ceilings.terabytes_per_s * TERA)
        return MS * max(multiplying, moving)


def leave_alone(inputs: Any) -> None:  # noqa: ANN401
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class KernelCase(Generic[Inputs]):
    """One operation at one size.

    Attributes:
        name: of the operation.
        about: its sizes, in words.
        make_inputs: fresh inputs.
        ops: our own implementations by name, the one that the engine calls first.
        expected: the twin's outputs in float64, or exact ones.
        alternatives: what one would run without us, by name, preparations included.
        work: what the floor is made of.
        tolerance: largest error of a row relative to the rows' root mean square; 0 for
            copies, which must be exact.
        poison: spoils what the operation must write, where it writes in place.
    """

    name: str
    about: str
    make_inputs: Callable[[], Inputs]
    ops: Mapping[str, Callable[[Inputs], Outputs]]
    expected: Callable[[Inputs], Outputs]
    alternatives: Mapping[str, Callable[[Inputs], Outputs]]
    work: Work
    tolerance: float
    poison: Callable[[Inputs], None] = field(default=leave_alone)
