"""LoRA: only pairs train, and a written file merges to what was trained."""

import pytest
import torch
from tests.training.tiny_run import SIZES, make_backbone, make_trainer
from torch import nn
from torch.testing import assert_close

from afstream.checkpoints import merge_loras, read_lora
from afstream.checkpoints.files import load_into
from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.errors import ConfigError
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone
from afstream.training.trainer.lora import adapt, save_adapters
from afstream.training.trainer.optim import trained

pytest.importorskip("peft")


def make_adapted():
    backbone = make_backbone(1)
    adapt(backbone, rank=4, alpha=6.0)
    for name, weight in trained(backbone).items():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return backbone


def streamed(backbone):
    """Two chunks and a switch, as the stream makes them."""
    torch.manual_seed(3)
    rollout = Rollout.of(backbone, memory_policy("anchor", LENGTHS), SamplerConfig())
    with torch.no_grad():
        texts = [backbone.text_context(torch.randn(1, 6, SIZES.text_dim)) for _ in range(2)]
    shape = (1, 3, 16, 4, 4)
    state = rollout.start(texts[0], shape)
    found = []
    for _ in range(2):
        found.append(rollout.denoise(state, torch.randn(4, *shape)))
        rollout.commit(state, found[-1])
        rollout.switch(state, texts[1])
    return torch.cat(found, dim=1)


def test_a_new_lora_changes_nothing_and_shares_the_weights():
    backbone = make_backbone(1)
    before, expected = backbone.get_parameter("blocks.0.ffn.0.weight"), streamed(backbone)
    adapt(backbone, rank=4, alpha=6.0)
    assert backbone.get_parameter("blocks.0.ffn.0.base_layer.weight") is before
    assert torch.equal(streamed(backbone), expected)


def test_every_linear_of_the_layers_has_a_pair_and_nothing_else_trains():
    backbone = make_adapted()
    linears = sum(isinstance(it, nn.Linear) for it in make_backbone(1).blocks.modules())
    names = trained(backbone)
    assert len(names) == 2 * linears == 2 * 10 * SIZES.num_layers
    assert all("lora_" in name for name in names)


def test_the_same_seed_begins_alike_and_leaves_other_draws_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    one, other = make_backbone(1), make_backbone(1)
    adapt(one, rank=4, alpha=6.0)
    assert torch.equal(torch.randn(3), expected)
    adapt(other, rank=4, alpha=6.0)
    pairs = zip(trained(one).values(), trained(other).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_written_lora_merges_to_the_adapted_model(tmp_path):
    adapted = make_adapted()
    path = tmp_path / "lora.safetensors"
    save_adapters(path, adapted.state_dict(), alpha=6.0)
    lora = read_lora(path)
    assert {one.alpha for one in lora.strengths.values()} == {6.0}
    base = make_backbone(1)
    merged = Backbone(SIZES)
    load_into(merged, merge_loras(base.state_dict(), [lora]), what="the merged weights")
    expected = streamed(adapted)
    assert_close(streamed(merged), expected, rtol=0, atol=1e-5)
    assert (streamed(base) - expected).abs().max() > 1e-2


def test_small_steps_are_not_lost_in_bfloat16():
    backbone = make_backbone(1).bfloat16()
    adapt(backbone, rank=4, alpha=6.0)
    assert {weight.dtype for weight in trained(backbone).values()} == {torch.float32}
    assert backbone.dtype == torch.bfloat16
    assert streamed(backbone).isfinite().all()


def test_the_average_follows_the_pairs_alone():
    trainer = make_trainer(lora=True)
    assert trainer.ema.weights.keys() == trained(trainer.models.student).keys()


def test_impossible_settings_say_what_is_allowed(tmp_path):
    with pytest.raises(ConfigError, match="rank is 0; give 1 or more"):
        adapt(make_backbone(1), rank=0, alpha=1.0)
    with pytest.raises(ConfigError, match="no LoRA to write"):
        save_adapters(tmp_path / "x.safetensors", make_backbone(1).state_dict(), alpha=1.0)
    assert not list(tmp_path.iterdir())


def test_without_peft_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"afstream\[train\]"):
        adapt(make_backbone(1), rank=4, alpha=1.0)
