"""Muon for every weight with more than one axis; AdamW serves the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

# quintic whose repeated use drives every singular value towards 1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
UPDATE_SIZE = 0.2


class Muon(Optimizer):
    """Momentum whose update is made orthogonal, convolutions taken as matrices [out, rest].

    Whatever the gradient's size, a step's root mean square is `UPDATE_SIZE * lr`, about
    that of AdamW, so the two can share a learning rate.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            list(weights), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        assert closure is None  # noqa: S101 - the trainer never passes one
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average: Tensor = state["momentum"]
                average.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(average, group["momentum"])
                update = orthogonal(ahead.flatten(1))
                # the root mean square of an orthogonal matrix is 1 / sqrt(its longer side)
                update *= UPDATE_SIZE * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view(weight.shape), alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix nearest to [M, N], roughly: singular values end near 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
