"""Optimizer, learning-rate schedule, running average and checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afstream.errors import CheckpointError
from afstream.training.machinery.muon import Muon

MATRIX_AXES = 2

Named = Iterable[tuple[str, nn.Parameter]]


def trapezoid(step: int, *, warmup: int, decay: int, total: int) -> float:
    """Share of the peak learning rate: up over `warmup` steps, level, down over `decay` steps.

    Unlike a cosine it does not depend on the total before the decay begins, so a run can be
    made longer while it runs.
    """
    return min((step + 1) / warmup, 1.0, max(total - step, 0) / decay)


class MixedOptimizer:
    """Muon for the matrices of the layers, AdamW for everything else.

    Orthogonalised updates learn small transformers in markedly fewer steps; they are meant
    for hidden matrices only.

    Args:
        parameters: names and parameters.
        lr: AdamW's peak learning rate.
        hidden_lr: Muon's, for updates whose root mean square is a fifth of it.
        hidden_prefix: hidden matrices are the parameters below this name with two axes.
    """

    def __init__(
        self, parameters: Named, *, lr: float, hidden_lr: float, hidden_prefix: str
    ) -> None:
        named = list(parameters)
        hidden = [
            p for name, p in named if name.startswith(hidden_prefix) and p.ndim == MATRIX_AXES
        ]
        chosen = {id(p) for p in hidden}
        others = [p for _, p in named if id(p) not in chosen]
        self._parts = (
            Muon(hidden, lr=hidden_lr, weight_decay=0.01),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
        )
        self._peaks = (hidden_lr, lr)
        self._parameters = [p for _, p in named]

    def step(self, share: float, *, clip: float = 1.0) -> float:
        """Clip the gradients' norm, update at `share` of the peak rate, clear; the norm.

        Nothing is updated where the norm is no number.
        """
        norm = nn.utils.clip_grad_norm_(self._parameters, clip)
        for part, peak in zip(self._parts, self._peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * share
            if norm.isfinite():
                part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything that resuming needs."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take up where `state_dict` was taken."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def adamw(
    weights: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose moments are there from the beginning, so that a checkpoint can fill them."""
    optimizer = torch.optim.AdamW(list(weights), lr=lr, betas=betas, weight_decay=weight_decay)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
    return optimizer


class RunningAverage:
    """Exponential moving average of the weights of a module that learn."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in trained(module).items()
        }

    @torch.no_grad()
    def begin(self, module: nn.Module) -> None:
        """Forget, and begin with the module's weights."""
        for name, value in trained(module).items():
            self.weights[name].copy_(value)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move toward the module's weights; faster during the first steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in trained(module).items():
            self.weights[name].lerp_(value, 1 - decay)


@torch.no_grad()
def fill(own: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    """Copy tensors by name, except where they are the same.

    Args:
        own: tensors, or mappings of them; filled in place.
        given: what they shall be.
        what: they are, for the error.

    Raises:
        CheckpointError: the names differ.
    """
    if own.keys() != given.keys():
        raise CheckpointError(
            f"the checkpoint's {what} has other weights than this run's; resume with the same"
            " settings"
        )
    for name, value in own.items():
        if isinstance(value, Mapping):
            fill(value, given[name], f"{what}.{name}")
        elif value is not given[name]:
            value.copy_(given[name])


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace the checkpoint at once, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)
