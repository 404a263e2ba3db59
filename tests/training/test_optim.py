"""The pocket stages' optimizer, by what it does to weights."""

import pytest
import torch
from torch import nn

from afstream.training.trainer.optim import muon_and_adamw, set_rates, trained, update

RATES = {"hidden": 0.1, "other": 0.02}


def make(*names):
    torch.manual_seed(0)
    module = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        place = module
        for parent in parents:
            place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.register_parameter(last, nn.Parameter(torch.randn(6, 4)))
    optimizers = muon_and_adamw(module, lr=RATES["other"], matrix_lr=RATES["hidden"])
    weights = trained(module)

    def step(share):
        set_rates(optimizers, share)
        update(weights.values(), optimizers, 1.0)

    return weights, step


@pytest.mark.parametrize(("name", "lr"), [("blocks.0.w", 0.1), ("embedding", 0.02)])
def test_without_gradients_weights_decay_by_a_hundredth_of_the_rate(name, lr):
    weights, step = make("blocks.0.w", "embedding")
    before = weights[name].detach().clone()
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    step(0.5)
    torch.testing.assert_close(weights[name].detach(), before * (1 - 0.5 * lr * 0.01))


def test_hidden_matrices_move_by_a_fifth_of_their_rate_whatever_the_gradient():
    weights, step = make("blocks.0.w", "embedding")
    before = weights["blocks.0.w"].detach().clone()
    for weight in weights.values():
        weight.grad = 1e-3 * torch.randn_like(weight)
    step(1.0)
    moved = weights["blocks.0.w"].detach() - before * (1 - 0.1 * 0.01)
    size = moved.square().mean().sqrt().item()
    # its update is orthogonal: the root mean square of all entries is 0.2, roughly
    assert size == pytest.approx(0.2 * 0.1, rel=0.25)
