"""Optimizers of a training run, and the moving average (EMA) of what they train."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.muon import Muon

MATRIX_AXES = 2


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that require gradients, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def is_layer_matrix(name: str, weight: Tensor) -> bool:
    """Whether a weight is a matrix of a backbone's layers, which Muon is meant for."""
    return "blocks." in name and weight.ndim == MATRIX_AXES


def split(
    module: nn.Module, is_matrix: Callable[[str, Tensor], bool]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A module's weights that learn: those that Muon shall take, and the others."""
    found: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for name, weight in trained(module).items():
        found[0 if is_matrix(name, weight) else 1].append(weight)
    return found


def muon_and_adamw(
    module: nn.Module, *, lr: float, matrix_lr: float
) -> tuple[Optimizer, Optimizer]:
    """Muon for the matrices of a backbone's layers, AdamW for everything else.

    Orthogonalised updates learn small transformers in markedly fewer steps; they are meant
    for hidden matrices only.
    """
    matrices, others = split(module, is_layer_matrix)
    return Muon(matrices, lr=matrix_lr, weight_decay=0.01), adamw(others, lr, (0.9, 0.98), 0.01)


def adamw(
    weights: nn.Module | Iterable[nn.Parameter],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> AdamW:
    """AdamW whose moments are there from the beginning, so that a checkpoint can fill them."""
    chosen = trained(weights).values() if isinstance(weights, nn.Module) else weights
    optimizer = AdamW(chosen, lr=lr, betas=betas, weight_decay=weight_decay)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
    return optimizer


def optimizer_state(
    optimizers: Iterable[Optimizer], weights: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, Tensor]]:
    """What optimizers keep of each weight, by the weight's name."""
    kept = {weight: state for each in optimizers for weight, state in each.state.items()}
    return {name: kept[weight] for name, weight in weights.items()}


def set_rates(optimizers: Iterable[Optimizer], share: float) -> None:
    """Set the learning rate of each optimizer to a share of the rate it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * share


def update(
    weights: Iterable[Tensor],
    optimizers: Iterable[Optimizer],
    max_norm: float,
    processes: Processes = ALONE,
) -> float:
    """Average gradients over processes where FSDP did not, clip their norm, step and clear.

    The weights are all that the optimizers train: spread over processes, or the same in all.

    Returns:
        The norm before clipping; where it is not finite, no weight is updated.
    """
    weights, optimizers = list(weights), list(optimizers)
    for weight in weights:
        if processes.count > 1 and weight.grad is not None and not isinstance(weight, DTensor):
            dist.all_reduce(weight.grad)
            weight.grad /= processes.count
    norm = nn.utils.clip_grad_norm_(weights, max_norm)
    total = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    for optimizer in optimizers:
        if math.isfinite(total):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


class Ema:
    """Exponential moving average of a module's weights that learn; begins with its present ones.

    `torch.optim.swa_utils.AveragedModel` copies the whole module: frozen weights beside a LoRA, and
    modules that are spread over processes, which cannot be copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.weights = _copied(module)

    def reset(self) -> None:
        """Begin again with the module's present weights."""
        _overwrite(self.weights, trained(self._module))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move toward the module's weights; faster during the first steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in trained(self._module).items():
            self.weights[name].lerp_(value, 1 - decay)

    @contextmanager
    def in_place(self) -> Generator[None, None, None]:
        """Give the module the averaged weights within, and its own back afterwards."""
        own = _copied(self._module)
        _overwrite(trained(self._module), self.weights)
        try:
            yield
        finally:
            _overwrite(trained(self._module), own)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trained(module).items()}


@torch.no_grad()
def _overwrite(goal: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for name, weight in goal.items():
        weight.copy_(source[name])
