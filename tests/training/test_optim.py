"""The pocket stages' optimizer, by what it does to weights."""

import pytest
import torch
from torch import nn

from afstream.training.machinery.optim import MixedOptimizer

RATES = {"hidden": 0.1, "other": 0.02}


def make(*names):
    torch.manual_seed(0)
    weights = {name: nn.Parameter(torch.randn(6, 4)) for name in names}
    optimizer = MixedOptimizer(
        weights.items(), lr=RATES["other"], hidden_lr=RATES["hidden"], hidden_prefix="blocks."
    )
    return weights, optimizer


@pytest.mark.parametrize(("name", "lr"), [("blocks.0.w", 0.1), ("embedding", 0.02)])
def test_without_gradients_weights_decay_by_a_hundredth_of_the_rate(name, lr):
    weights, optimizer = make("blocks.0.w", "embedding")
    before = weights[name].detach().clone()
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step(0.5)
    torch.testing.assert_close(weights[name].detach(), before * (1 - 0.5 * lr * 0.01))


def test_hidden_matrices_move_by_a_fifth_of_their_rate_whatever_the_gradient():
    weights, optimizer = make("blocks.0.w", "embedding")
    before = weights["blocks.0.w"].detach().clone()
    for weight in weights.values():
        weight.grad = 1e-3 * torch.randn_like(weight)
    optimizer.step(1.0)
    moved = weights["blocks.0.w"].detach() - before * (1 - 0.1 * 0.01)
    size = moved.square().mean().sqrt().item()
    # its update is orthogonal: the root mean square of all entries is 0.2, roughly
    assert size == pytest.approx(0.2 * 0.1, rel=0.25)
