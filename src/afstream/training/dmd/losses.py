"""The loss of distribution matching distillation (DMD), and the critic's flow matching.

1. real = cond + g * (cond - uncond), the teacher's clean predictions
2. gradient = (fake - real) / mean|x - real|, per sample; NaN counts as 0
3. generator loss = 0.5 * mean((x - stopgrad(x - gradient))^2) over what counts
4. critic loss = mean((flow - (noise - x))^2)

x is the student's clip, `fake` the critic's clean prediction of the noised x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afstream.config import TIMESTEPS
from afstream.engine.schedule import shifted_sigma

# timesteps so clean or so noisy that teacher and critic say nothing useful
TIMESTEP_RANGE = (20.0, 980.0)


def guided(cond: Tensor, uncond: Tensor, guidance: float) -> Tensor:
    """Equation 1: the teacher's prediction under guidance; all [B, F, C, h, w]."""
    return cond + guidance * (cond - uncond)


def dmd_gradient(clean: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Equation 2; all [B, F, C, h, w]."""
    scale = (clean - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return torch.nan_to_num((fake - real) / scale)


def dmd_loss(clean: Tensor, gradient: Tensor, counts: Tensor) -> Tensor:
    """Equation 3, in float64; gradients flow to `clean`.

    Both are [B, F, C, h, w]; `counts` [F] is true for the frames that the loss is of.
    """
    x = clean.double()
    goal = (x - gradient.double()).detach()
    return 0.5 * (x - goal)[:, counts].square().mean()


def critic_loss(flow: Tensor, noise: Tensor, clean: Tensor) -> Tensor:
    """Equation 4; all [B, F, C, h, w]."""
    return (flow - (noise - clean)).square().mean()


def dmd_timestep(drawn: float, shift: float) -> float:
    """A timestep 0 .. 999, drawn evenly, moved toward noise and clamped to what teaches."""
    moved = TIMESTEPS * shifted_sigma(drawn / TIMESTEPS, shift)
    return min(max(moved, TIMESTEP_RANGE[0]), TIMESTEP_RANGE[1])
