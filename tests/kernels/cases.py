"""Random blocks and slots for the kernels' tests, and how errors are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from afstream_kernels import rope_shift_tables, slot_attention, slot_attention_lse
from afstream_kernels.dispatch import TRITON_DTYPES, BackendName

NUM_SLOTS = 5
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TRITON_DTYPES}


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def error(found: Tensor, exact: Tensor) -> Tensor:
    """Root mean square: one of thousands of roundings decides the largest error."""
    return (found.double() - exact).square().mean().sqrt()


def assert_near(found: Tensor, expected: Tensor, atol: float = 2e-6) -> None:
    """Within a few roundings of float32, of numbers near 1."""
    assert_close(found.double(), expected.double(), rtol=0, atol=atol)


@dataclass(frozen=True)
class Case:
    """The arguments of segment attention."""

    q: Tensor
    keys: Tensor
    values: Tensor
    slots: Sequence[int] | Tensor
    cos: Tensor
    sin: Tensor
    own: Any  # keys and values, or None

    def attend(self, backend: BackendName = "triton") -> Tensor:
        return slot_attention(**vars(self), backend=backend)

    def attend_lse(
        self, backend: BackendName = "triton", *, num_splits: int = 0
    ) -> tuple[Tensor, Tensor]:
        return slot_attention_lse(**vars(self), backend=backend, num_splits=num_splits)

    def but(self, **changed: Any) -> Case:
        return replace(self, **changed)

    def with_slots_on_the_device(self) -> Case:
        return self.but(slots=torch.tensor(self.slots, dtype=torch.int32))

    def row(self, index: int) -> Case:
        """One row of the batch alone."""
        own = self.own and tuple(part[index : index + 1] for part in self.own)
        names = "q", "keys", "values"
        return self.but(own=own, **{name: vars(self)[name][index : index + 1] for name in names})

    def wide(self) -> Case:
        """The same numbers in float64."""
        own = self.own and tuple(part.double() for part in self.own)
        names = "q", "keys", "values", "cos", "sin"
        return self.but(own=own, **{name: vars(self)[name].double() for name in names})

    def exact(self) -> Tensor:
        return self.wide().attend("reference")


def make_case(
    slots: Sequence[int] = (3, -1, 0),
    *,
    dtype: torch.dtype = torch.float32,
    head_dim: int = 32,
    num_tokens: int = 45,
    slot_tokens: int = 39,
    own_tokens: int | None = None,
    batch: int = 1,
    num_heads: int = 2,
) -> Case:
    """Slots that are not listed hold NaN."""

    def heads(*places: int) -> Tensor:
        return random(batch, *places, num_heads, head_dim, dtype=dtype)

    def held() -> Tensor:
        poisoned = heads(NUM_SLOTS, slot_tokens)
        poisoned[:, [slot for slot in range(NUM_SLOTS) if slot not in slots]] = torch.nan
        return poisoned

    own = None if own_tokens is None else (heads(own_tokens), heads(own_tokens))
    cos, sin = rope_shift_tables((18, 7, 3)[: len(slots)], head_dim=head_dim)
    return Case(heads(num_tokens), held(), held(), list(slots), cos, sin, own)
