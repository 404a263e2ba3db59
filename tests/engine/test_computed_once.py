"""What a stream computes once: modulations of its timesteps, packed weights."""

from dataclasses import replace

import pytest
import torch
from tests.engine.test_block_swap import DEEP, LAYERS, backbone, latents

from afstream.families import opening
from afstream.families.opening import PACKED_WIDTH, pack_weights
from afstream.families.random.model import random_backbone
from afstream.model.linear import Linear
from afstream.spec import ModelSpec
from afstream_kernels import pack_weight

needs_packing = pytest.mark.skipif(
    pack_weight(torch.ones(8, 8)) is None, reason="this processor has no layout of its own"
)


def test_modulations_made_beforehand_are_those_of_each_call(monkeypatch):
    model, made_anew = backbone(0), backbone(0)
    plain = made_anew.time_context
    monkeypatch.setattr(made_anew, "time_context", lambda at: plain(at)._replace(modulations=()))
    assert len(model.time_context(torch.ones(1, 1)).modulations) == 0
    with torch.no_grad():
        assert len(model.time_context(torch.ones(1, 1)).modulations) == DEEP.num_layers
    assert torch.equal(latents(model), latents(made_anew))


def test_with_gradients_modulations_belong_to_the_call():
    model = backbone(0).requires_grad_(True)
    assert model.time_context(torch.ones(1, 1)).modulations == ()


@torch.no_grad()
def num_packed(model):
    maps = [part for part in model.blocks.modules() if isinstance(part, Linear)]
    return sum(linear.packed is not None for linear in maps), len(maps)


@needs_packing
def test_packed_weights_make_the_same_latents():
    model = backbone(0)
    model.pack_weights()
    packed, there = num_packed(model)
    assert packed == there == 10 * LAYERS
    wanted = latents(backbone(0))
    assert (latents(model) - wanted).abs().max() < 4e-6 * wanted.abs().max()


@needs_packing
@pytest.mark.parametrize("change", ["in place", "replaced"])
@torch.no_grad()
def test_a_weight_that_changes_is_not_taken_from_its_copy(change):
    linear, x = Linear(8, 8), torch.randn(2, 3, 8)
    linear.pack()
    assert linear.packed is not None
    if change == "in place":
        linear.weight.mul_(2)
    else:
        linear.weight.data = torch.randn(8, 8)
    assert linear.packed is None
    assert torch.equal(linear(x), torch.nn.functional.linear(x, linear.weight, linear.bias))


@needs_packing
def test_packed_maps_have_gradients():
    linear = Linear(8, 8)
    linear.pack()
    linear(torch.randn(2, 8)).sum().backward()
    assert linear.weight.grad is not None


@needs_packing
@pytest.mark.parametrize(("dim", "all_of_them"), [(PACKED_WIDTH, True), (PACKED_WIDTH // 2, False)])
def test_wide_backbones_are_packed(dim, all_of_them):
    sizes = replace(DEEP, dim=dim, num_heads=2, num_layers=1)
    model = random_backbone(sizes, device="cpu", dtype=torch.float32)
    pack_weights(model)
    packed, there = num_packed(model)
    assert packed == (there if all_of_them else 0)


@needs_packing
def test_large_backbones_are_not_packed(monkeypatch):
    sizes = replace(DEEP, dim=PACKED_WIDTH, num_heads=2, num_layers=1)
    model = random_backbone(sizes, device="cpu", dtype=torch.float32)
    monkeypatch.setattr(opening, "PACKED_BYTES", 1000)
    pack_weights(model)
    assert num_packed(model)[0] == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_an_opened_model_is_packed_unless_it_is_compiled(compiled, monkeypatch):
    asked = []
    monkeypatch.setattr(opening, "pack_weights", asked.append)
    opened = opening.open_model(ModelSpec(name="pocket", device="cpu"), compiled=compiled)
    assert asked == ([] if compiled else [opened.backbone])
