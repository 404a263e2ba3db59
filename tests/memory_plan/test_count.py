"""Live bytes: each storage once, as long as it lives, whatever device it is on."""

import pytest
import torch

from afstream.memory_plan.count import LiveBytes, held_bytes, weights_of

KIB = 1024


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_lives_counts_and_what_is_gone_does_not(device):
    weight = torch.zeros(256, device=device)
    with LiveBytes(device) as live:
        one = weight + 1
        assert (live.now, live.peak) == (KIB, KIB)
        # two at once on the way, of which one stays
        two = (one * 2).double()
        assert (live.now, live.peak) == (3 * KIB, 4 * KIB)
        del one
        assert (live.now, live.peak) == (2 * KIB, 4 * KIB)
        live.reset_peak()
        assert live.peak == live.now
        del two
        assert live.now == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_and_changes_in_place_are_nothing_new(device):
    weight = torch.zeros(16, 16, device=device)
    with LiveBytes(device) as live:
        kept = [weight.t(), weight[1:].flatten(), weight.add_(1), *weight.split(4)]
        assert live.now == 0
        kept.append(kept[1].view(-1, 8)[2:])
        assert live.now == live.peak == 0
        torch.mul(weight, 2, out=weight)
        assert live.now == live.peak == 0


def test_other_devices_do_not_count():
    with LiveBytes("meta") as live:
        there = torch.ones(4).to("meta")
        assert live.now == there.untyped_storage().nbytes() == 16


def test_shared_memory_counts_once():
    whole = torch.zeros(100)
    assert held_bytes((whole, whole[10:], whole.view(10, 10))) == 400
    norm = torch.nn.BatchNorm1d(3)
    assert len(weights_of(norm)) == 5

    class Holder:
        def __init__(self):
            self.module, self.mean, self.name = norm, torch.zeros(2), "x"

    assert len(weights_of(Holder())) == 6
