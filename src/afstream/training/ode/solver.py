"""A bidirectional model's own trajectories, from noise to a clip.

1. dx / dsigma = flow, from noise at sigma 1 down to a clip at sigma 0
2. Euler: x' = x + (sigma' - sigma) * flow(x, sigma)
3. Heun: the same with the mean of the flows at (x, sigma) and at (x', sigma')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from afstream.config import TIMESTEPS, SamplerConfig
from afstream.engine.schedule import shifted_sigma
from afstream.errors import ConfigError

Solver = Literal["heun", "euler"]

# latents and sigma to their flow
Flow = Callable[[Tensor, float], Tensor]


class SolverGrid(NamedTuple):
    """Sigmas from 1 to 0 at which the solver evaluates the flow.

    `kept` are the indices of the sampler's sigmas among them, then of 0.
    """

    sigmas: tuple[float, ...]
    kept: tuple[int, ...]


def solver_grid(sampler: SamplerConfig, steps: int) -> SolverGrid:
    """A grid that is even before the shift and has the sampler's own steps as nodes, exactly.

    Where `steps` does not split evenly, spacing differs a little between the sampler's steps.

    Raises:
        ConfigError: two of the sampler's steps would fall on one node.
    """
    stops = [step / TIMESTEPS for step in (*sampler.steps, 0)]
    if stops[0] < 1:
        stops.insert(0, 1.0)
    places = [round(steps * (1 - stop)) for stop in stops]
    nodes: list[float] = []
    for start, stop, first, last in zip(stops, stops[1:], places, places[1:], strict=False):
        if first == last:
            raise ConfigError(
                f"the ODE solver has {steps} steps, too few to keep the denoise steps"
                f" {sampler.steps} apart; give it more, for example 48"
            )
        nodes += [start + (stop - start) * k / (last - first) for k in range(last - first)]
    sigmas = tuple(shifted_sigma(node, sampler.shift) for node in (*nodes, 0.0))
    return SolverGrid(sigmas, tuple(places[-len(sampler.steps) - 1 :]))


def trajectory(flow: Flow, noise: Tensor, grid: SolverGrid, solver: Solver) -> Tensor:
    """Follow equation 1 from noise [B, F, C, h, w]; keep the latents at K of the grid's sigmas.

    The last step is Euler's, for at sigma 0 nothing is asked.

    Returns:
        [B, K, F, C, h, w].
    """
    x = noise
    kept: list[Tensor] = []
    for index, (sigma, following) in enumerate(zip(grid.sigmas, grid.sigmas[1:], strict=False)):
        if index in grid.kept:
            kept.append(x)
        direction = flow(x, sigma)
        if solver == "heun" and following > 0:
            ahead = x + (following - sigma) * direction
            direction = (direction + flow(ahead, following)) / 2
        x = x + (following - sigma) * direction
    return torch.stack([*kept, x], dim=1)
