"""Muon for every weight with more than one axis; AdamW serves the rest.

`torch.optim.Muon` is another recipe: it orthogonalises in bfloat16 and takes matrices only. The
pocket model's networks are small enough for float32, and its codec's convolutions learn with Muon
as well. Where both apply, a test holds this one to torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

# coefficients of the quintic whose repeated use drives every singular value towards 1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
UPDATE_SIZE = 0.2


class Muon(Optimizer):
    """Momentum whose update is made orthogonal; convolutions count as matrices [out, rest].

    Whatever the gradient's size, a step's root mean square is `UPDATE_SIZE * lr`, about
    that of AdamW, so the two can share a learning rate. The momentum is there from the beginning,
    so that a checkpoint can fill it. Weights have two or more axes.
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
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight] = {"momentum": torch.zeros_like(weight)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        assert closure is None  # noqa: S101 - the trainer never passes one
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average: Tensor = self.state[weight]["momentum"]
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
