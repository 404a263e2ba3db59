"""Weights that a file holds in another form than models compute with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

# puts a weight's values on a device, in float32
Restore = Callable[[torch.device], Tensor]


class Stored(Tensor):
    """A weight of known shape whose values are computed anew whenever an operation needs them.

    Operations see, and give, ordinary float32 tensors; copied to a device, it is computed there.
    So whatever reads weights need not know how they are stored, and only those in use take memory.

    Attributes:
        form: how it is stored, in the format's own word.
        parts: what the file holds of it.
        restore: computes it.
    """

    form: str
    parts: Sequence[Tensor]
    restore: Restore

    def values_on(self, device: torch.device) -> Tensor:
        """An ordinary tensor on a device; on the meta device nothing is computed."""
        if device.type == "meta":
            return torch.empty(self.shape, device=device)
        return self.restore(device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Any operation, on the values."""
        kwargs = kwargs or {}
        device = kwargs.get("device") if func is torch.ops.aten._to_copy.default else None
        where = torch.device(device or "cpu")
        args, kwargs = tree_map_only(cls, lambda one: one.values_on(where), (args, kwargs))
        return func(*args, **kwargs)


def stored(shape: Sequence[int], parts: Sequence[Tensor], restore: Restore, *, form: str) -> Stored:
    """A weight that is stored in another form; see `Stored`."""
    made: Any = Stored
    # torch's documented way to make such a tensor, underscore and all
    made = made._make_wrapper_subclass(Stored, tuple(shape), dtype=torch.float32)
    made.form, made.parts, made.restore = form, parts, restore
    return made


def computed(value: Tensor) -> Tensor:
    """A weight as an ordinary tensor."""
    return value.restore(torch.device("cpu")) if isinstance(value, Stored) else value


def form_of(value: Tensor) -> str:
    """How a weight is stored: its dtype, or the word of another form."""
    return value.form if isinstance(value, Stored) else str(value.dtype).removeprefix("torch.")


def parts_of(value: Tensor) -> Sequence[Tensor]:
    """The tensors of a file that a weight is made from."""
    return value.parts if isinstance(value, Stored) else (value,)
