"""What is measured of an operation, and under which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

from afstream_kernels import BackendName, choose_backend
from kernel_bench.sizes import KernelShape
from kernel_bench.timing import Ceilings

T = TypeVar("T")
Tables = tuple[Tensor, Tensor]
Outputs = tuple[Tensor, ...]
Op = Callable[[SimpleNamespace], Outputs]

# Largest error of a row that one rounding causes, relative to the rows' root mean square.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """Where and at which sizes operations run.

    Attributes:
        shape: the sizes.
        device: where the tensors are.
        dtype: of queries, keys, values and activations.
        backends: which of our own implementations are measured; all others are compared with
            the first one.
        compiled: torch.compile is among the alternatives.
    """

    shape: KernelShape
    device: torch.device
    dtype: torch.dtype
    backends: tuple[BackendName, ...]
    compiled: bool

    def tolerance(self, roundings: int) -> float:
        """The largest error allowed after so many roundings."""
        return roundings * ROUNDING[self.dtype]

    def draw(self) -> Callable[..., Tensor]:
        """A function that draws random tensors of given sizes, the same ones every time."""
        generator = torch.Generator(self.device).manual_seed(0)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=self.device, dtype=self.dtype)

        return randn

    def on_device(self, tables: Tables) -> Tables:
        """Cosines and sines on the settings' device."""
        return tables[0].to(self.device), tables[1].to(self.device)

    def ours(self, make: Callable[[BackendName], T]) -> dict[str, T]:
        """Our implementations of an operation other than attention, which has no `sdpa`."""
        found: dict[str, T] = {}
        for backend in self.backends:
            fused = choose_backend(backend, device=self.device, dtype=self.dtype).fused
            found.setdefault("triton" if fused else "reference", make(backend))
        return found

    def through_compile(
        self, ways: Mapping[str, Callable[[SimpleNamespace], T]]
    ) -> dict[str, Callable[[SimpleNamespace], T]]:
        """The same through torch.compile, none where the settings do not ask for it."""
        wanted = ways.items() if self.compiled else ()
        return {f"torch.compile: {name}": _compile(way) for name, way in wanted}


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """One operation at one size.

    Attributes:
        name: of the operation.
        about: its sizes, in words.
        make_inputs: makes fresh inputs.
        ops: our own implementations by name, first the one that the engine calls.
        expected: the twin's outputs in float64, or exact ones.
        alternatives: what one would run without us by name, preparations included.
        flops: multiplications and additions in matrix products that the task needs.
        moved_bytes: bytes that must be read and written once.
        tolerance: largest error of a row relative to the rows' root mean square; 0 for
            copies, which must be exact.
        poison: overwrites with NaN what the operation must write in place.
    """

    name: str
    about: str
    make_inputs: Callable[[], SimpleNamespace]
    ops: Mapping[str, Op]
    expected: Op
    alternatives: Mapping[str, Op]
    flops: float = 0.0
    moved_bytes: float
    tolerance: float
    poison: Callable[[SimpleNamespace], object] = lambda _: None

    def floor_ms(self, ceilings: Ceilings) -> float:
        """Milliseconds below which no implementation can come under these ceilings."""
        return ceilings.floor_ms(self.flops, self.moved_bytes)


def forward(way: Callable[[SimpleNamespace], Tensor]) -> Op:
    """The single output of `way`."""
    return lambda i: (way(i),)


def forward_backward(way: Callable[[SimpleNamespace], Tensor]) -> Op:
    """The output of `way`, and the gradients of the inputs `wanted` by that of the output."""

    def run(i: SimpleNamespace) -> Outputs:
        with torch.enable_grad():
            out = way(i)
            gradients = torch.autograd.grad(out, [getattr(i, name) for name in i.wanted], i.grad)
        return out.detach(), *gradients

    return run


def in_float64(i: SimpleNamespace) -> SimpleNamespace:
    """Inputs with all their tensors in float64."""

    def exact(x: Any) -> Any:  # noqa: ANN401
        return x.detach().double().requires_grad_(x.requires_grad) if torch.is_tensor(x) else x

    return SimpleNamespace(**{name: exact(x) for name, x in vars(i).items()})


def _compile(way: Callable[[SimpleNamespace], T]) -> Callable[[SimpleNamespace], T]:
    # torch.compile traces a frame of Python, which a partial function does not have
    def frame(i: SimpleNamespace) -> T:
        return way(i)

    return torch.compile(frame, dynamic=False)
