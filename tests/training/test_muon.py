"""Muon: torch's own where both apply; convolutions count as matrices."""

import pytest
import torch
from torch.testing import assert_close

from afstream.training.trainer.muon import Muon


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (24, 24)])
def test_on_matrices_it_is_torchs_muon(shape):
    """Over some steps, momentum and weight decay included; torch's computes in bfloat16."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.05, weight_decay=0.3),
        torch.optim.Muon([theirs], lr=0.05, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        gradient = torch.randn(shape)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    # without weight decay it would go elsewhere
    assert moved > 1


def test_a_convolution_learns_as_its_matrix_does():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    gradient = torch.randn_like(kernel)
    kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    Muon([kernel], lr=0.1).step()
    Muon([matrix], lr=0.1).step()
    assert_close(kernel.flatten(1), matrix, rtol=0, atol=0)
