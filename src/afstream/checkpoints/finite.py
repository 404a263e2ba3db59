"""Whether weights are finite: what is not would turn every frame black, and nobody told why."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from afstream.errors import CheckpointError
from afstream.validation import show_name

# who gave a weight, by the weight's name
Giver = Callable[[str], str]


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; waits for its device."""
    return not _can_tell(value) or bool(_extremes(value).isfinite().all())


def check_finite(weights: Iterable[tuple[str, Tensor]], giver: Giver) -> None:
    """See that weights are finite, each where it lies; a device is waited for once.

    Raises:
        CheckpointError: names the first that is not, and who gave it.
    """
    found: dict[torch.device, dict[str, Tensor]] = {}
    for name, value in weights:
        if _can_tell(value):
            found.setdefault(value.device, {})[name] = _extremes(value)
    for extremes in found.values():
        finite = torch.stack(list(extremes.values())).isfinite().all(1).tolist()
        for name, is_good in zip(extremes, finite, strict=True):
            if not is_good:
                raise not_finite(name, giver)


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
    # float8 has no order in torch; what it holds, float16 holds
    wide = value.detach() if value.itemsize > 1 else value.detach().half()
    return torch.stack(wide.aminmax()).double()
