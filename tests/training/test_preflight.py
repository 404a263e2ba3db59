"""Memory that is foretold is the memory that is taken."""

import pytest
import torch
from afstream.training.runs.preflight import (
    Footing,
    adapter_values,
    matching_shares,
    module_shares,
    on_meta,
    size_bytes,
)
from tests.engine.toy import SIZES, toy_model
from tests.training.tiny import match_trainer

from afstream.families.presets import LENGTHS
from afstream.kvcache.cache import Grid
from afstream.kvcache.memories import memory_policy
from afstream.training.machinery.adapters import adapt
from afstream.training.machinery.optim import MixedOptimizer, trained
from afstream.training.runs.pocket_stages import _is_hidden

ANCHOR = memory_policy("anchor", LENGTHS)


def foretell(*, rows=1, **footing):
    shares = matching_shares(
        ANCHOR, SIZES, SIZES, Grid(rows=1, columns=2), rows, Footing(**footing)
    )
    return {share.what: share.size_bytes for share in shares}


def test_a_stage_of_matching_takes_what_was_foretold():
    trainer = match_trainer()
    found = foretell()
    models = trainer.models
    for name, model, optimizer in (
        ("student", models.student, trainer._optimizer),
        ("critic", models.critic, trainer._critic_optimizer),
    ):
        states = [
            state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
        ]
        assert found[f"{name}: weights"] == size_bytes(model.parameters())
        assert found[f"{name}: gradients"] == size_bytes(model.parameters())
        assert found[f"{name}: optimizer states"] == size_bytes(states)
    assert found["student: moving average"] == size_bytes(trainer.average.weights.values())
    assert found["teacher: weights"] == size_bytes(models.teacher.parameters())

    kept = []
    advance = trainer._teach_student
    trainer._teach_student = lambda rollout, window, rows: (
        kept.append(window.before.memory),
        advance(rollout, window, rows),
    )[1]
    trainer.advance()
    [memory] = kept
    assert found["their copy for the replay"] == size_bytes((memory.keys, memory.values))


def test_sequences_and_processes():
    one, three = foretell(), foretell(rows=3)
    assert three["keys and values"] == 3 * one["keys and values"]
    spread = foretell(processes=4)
    assert spread["teacher: weights"] == -(-one["teacher: weights"] // 4)
    assert spread["keys and values"] == one["keys and values"]
    assert "two gathered layers of the teacher" in spread


def test_adapters_are_counted_as_they_are_made():
    pytest.importorskip("peft")
    backbone = toy_model().backbone
    adapt(backbone, rank=4, alpha=4.0)
    learns = sum(weight.numel() for weight in trained(backbone).values())
    assert adapter_values(on_meta(SIZES), 4) == learns
    found = foretell(rank=4, frozen=torch.bfloat16)
    assert found["student: gradients"] == 4 * learns
    assert found["student: weights"] == 4 * learns + size_bytes(
        on_meta(SIZES).parameters(), torch.bfloat16
    )


def test_optimizer_states_of_muon_and_adamw():
    backbone = toy_model().backbone.requires_grad_(True)
    optimizer = MixedOptimizer(
        backbone.named_parameters(), lr=1e-3, hidden_lr=1e-3, hidden_prefix="blocks."
    )
    for weight in backbone.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step(1.0)
    held = sum(
        size_bytes(value for value in state.values() if value.ndim)
        for part in optimizer.state_dict()
        for state in part["state"].values()
    )
    shares = dict(module_shares("it", on_meta(SIZES), is_matrix=_is_hidden))
    assert shares["it: optimizer states"] == held
