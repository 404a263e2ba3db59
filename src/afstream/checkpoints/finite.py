"""Whether weights are finite: what is not would turn every frame black, and nobody told why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from afstream.errors import CheckpointError
from afstream.validation import show_name

# the square of a larger value is more than float32 holds, so nothing can be computed from it
LARGEST = 1e19
# who gave a weight, by the weight's name
Giver = Callable[[str], str]


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; waits for its device."""
    return first_not_finite([("", value)]) is None


def check_finite(weights: Iterable[tuple[str, Tensor]], giver: Giver) -> None:
    """See that weights are finite.

    Raises:
        CheckpointError: names the first that is not, and who gave it.
    """
    name = first_not_finite(weights)
    if name is not None:
        raise not_finite(name, giver)


def first_not_finite(
    weights: Iterable[tuple[str, Tensor]], *, bound: float = math.inf
) -> str | None:
    """The first weight with a NaN, or a value that is not within `bound` of 0; None if all are.

    Each is looked at where it lies, and a device is waited for once.
    """
    found: dict[torch.device, dict[str, Tensor]] = {}
    for name, value in weights:
        if _can_tell(value):
            found.setdefault(value.device, {})[name] = _extremes(value)
    for extremes in found.values():
        within = (torch.stack(list(extremes.values())).abs() < bound).all(1).tolist()
        for name, is_good in zip(extremes, within, strict=True):
            if not is_good:
                return name
    return None


def not_finite(name: str, giver: Giver) -> CheckpointError:
    """The error for a weight that is not finite."""
    return CheckpointError(
        f"{giver(name)} has values in {show_name(name)} that are no finite numbers (NaN or"
        " infinity); give another file, or download it again"
    )


def _can_tell(value: Tensor) -> bool:
    # whole numbers are finite, and the meta device has no values
    return value.is_floating_point() and not value.is_meta


def _extremes(value: Tensor) -> Tensor:
    """The least and the greatest value [2], of which one is not finite if any value is not.

    In one pass and without a copy, which a mask of finite values would be.
    """
    if not value.numel():
        return value.new_zeros(2, dtype=torch.float64)
    # torch compares no values of eight bits
    wide = value.detach() if value.itemsize > 1 else value.detach().half()
    return torch.stack(wide.aminmax()).double()
