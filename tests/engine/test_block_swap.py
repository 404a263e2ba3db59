"""Layers in host memory: the same numbers, with two layers' room on the device."""

import pytest
import torch
from tests.wan_transformer import CONFIG

from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.errors import ConfigError
from afstream.families.presets import LENGTHS
from afstream.families.random.model import random_backbone
from afstream.kvcache.memories import memory_policy
from afstream.model.block_swap import pick_layers

LAYERS = 5
DEEP = BackboneConfig(
    dim=CONFIG.dim,
    ffn_dim=CONFIG.ffn_dim,
    freq_dim=CONFIG.freq_dim,
    text_dim=CONFIG.text_dim,
    text_len=8,
    num_heads=CONFIG.num_heads,
    num_layers=LAYERS,
    patch=CONFIG.patch,
)


def backbone(offload):
    return random_backbone(DEEP, device="cpu", dtype=torch.float32, offload=offload)


@torch.no_grad()
def latents(model):
    """Three chunks with a switch before the last."""
    rollout = Rollout.of(model, memory_policy("anchor", LENGTHS), SamplerConfig())
    draw = torch.Generator().manual_seed(1)
    texts = [model.text_context(torch.randn(1, 8, DEEP.text_dim, generator=draw)) for _ in range(2)]
    state = rollout.start(texts[0], (1, 3, 16, 4, 4))
    made = []
    for chunk in range(3):
        if chunk == 2:
            rollout.switch(state, texts[1])
        clean = rollout.denoise(state, torch.randn(4, 1, 3, 16, 4, 4, generator=draw))
        rollout.commit(state, clean)
        made.append(clean)
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("offload", range(1, LAYERS + 1))
def test_offloaded_layers_compute_the_same(offload):
    model = backbone(offload)
    assert model.is_offloaded
    assert torch.equal(latents(model), latents(backbone(0)))


def test_swapped_layers_share_two_buffers():
    model = backbone(4)
    places = {weight.untyped_storage().data_ptr() for weight in model.blocks.parameters()}
    layer = sum(weight.numel() for weight in model.blocks[0].parameters())
    held = sum(
        storage.nbytes()
        for storage in {
            weight.untyped_storage().data_ptr(): weight.untyped_storage()
            for weight in model.blocks.parameters()
        }.values()
    )
    # one layer stays, two buffers serve the other four
    assert len(places) == 2 + len(list(model.blocks[0].parameters()))
    assert held <= 4 * 3 * layer * 1.1


def test_which_layers_are_swapped():
    assert pick_layers(0, 5) == ()
    assert pick_layers(2, 5) == (0, 2)
    assert pick_layers(5, 5) == (0, 1, 2, 3, 4)
    with pytest.raises(ConfigError, match="6 layers are to be offloaded, but the model has 5"):
        pick_layers(6, 5)
