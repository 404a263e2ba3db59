"""Memory that a training stage is said to hold is the memory that it holds."""

from dataclasses import replace

import pytest
import torch
from tests.engine.toy import SIZES
from tests.training.tiny import dmd_trainer

from afstream.families.presets import LENGTHS
from afstream.geometry import Geometry
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.count import held_bytes
from afstream.memory_plan.training import (
    Storage,
    TrainingReport,
    adapter_bytes,
    dmd_parts,
    learner_parts,
    meta_backbone,
)
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_flow
from afstream.training.trainer.lora import adapt
from afstream.training.trainer.optim import (
    is_layer_matrix,
    muon_and_adamw,
    trained,
    update,
)

# two tokens in a latent frame, as in `dmd_trainer`
SMALL = Geometry(width_px=32, height_px=16)


def dmd_bytes(sizes=SIZES, *, rows=1, frames=0, **storage):
    stored = Storage(**storage)
    parts = dmd_parts(
        memory_policy("anchor", LENGTHS),
        sizes,
        sizes,
        SMALL,
        rows=rows,
        storage=stored,
        input_frames=frames,
    )
    return {part.name: part.bytes for part in parts}


def test_a_stage_of_matching_holds_what_was_counted():
    trainer = dmd_trainer()
    found = dmd_bytes()
    models = trainer.models
    for name, (model, [optimizer]) in trainer._networks.items():
        states = [
            state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
        ]
        assert found[f"{name}: weights"] == held_bytes(model.parameters())
        assert found[f"{name}: gradients"] == held_bytes(model.parameters())
        assert found[f"{name}: optimizer states"] == held_bytes(states)
    assert found["student: moving average"] == held_bytes(trainer.ema.weights.values())
    assert "critic: moving average" not in found
    assert found["teacher: weights"] == held_bytes(models.teacher.parameters())

    kept = []
    advance = trainer._teach_student
    trainer._teach_student = lambda rollout, window, rows: (
        kept.append(window.before.cache.pool),
        advance(rollout, window, rows),
    )[1]
    trainer.advance()
    [memory] = kept
    held = held_bytes((memory.keys, memory.values))
    assert found["keys and values"] == found["their copy for the replay"] == held


def test_sequences_and_processes():
    one, three = dmd_bytes(), dmd_bytes(rows=3)
    assert three["keys and values"] == 3 * one["keys and values"]
    spread = dmd_bytes(shards=4)
    assert spread["teacher: weights"] == -(-one["teacher: weights"] // 4)
    assert spread["keys and values"] == one["keys and values"]
    assert "two gathered layers of the teacher" in spread


def test_layers_that_are_computed_again_keep_their_inputs():
    latents = torch.zeros(1, 6, SIZES.in_dim, SMALL.latent_height, SMALL.latent_width)
    kept, counted = [], []
    for layers in (2, 5):
        sizes = replace(SIZES, num_layers=layers)
        model = Backbone(sizes)
        model.recompute_layers()
        text = model.text_context(torch.zeros(1, SIZES.text_len, SIZES.text_dim))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
            predict_flow(model, latents, torch.zeros(1), text)
        kept.append(held_bytes(x for x in saved if x.shape == (1, 6, 2, SIZES.dim)))
        counted.append(dmd_bytes(sizes, frames=6)["layers' inputs, one sequence at a time"])
    # the head keeps tokens, too, however many layers there are
    assert kept[1] - kept[0] == counted[1] - counted[0] == counted[0] * 3 // 2


def test_a_report_names_its_processes_and_what_one_alone_takes():
    def count(processes):
        return learner_parts("it", meta_backbone(SIZES), storage=Storage(shards=processes))

    alone, many = TrainingReport.of(count), TrainingReport.of(count, processes=4)
    held = held_bytes(meta_backbone(SIZES).parameters())
    assert alone.total_bytes == alone.alone_bytes == many.alone_bytes == 5 * held
    assert (alone.processes, many.processes) == (1, 4)
    assert held * 5 / 4 <= many.total_bytes < held * 5 / 4 + 4


def test_adapters_are_counted_as_they_are_made():
    pytest.importorskip("peft")
    backbone = Backbone(SIZES)
    adapt(backbone, rank=4, alpha=4.0)
    learns = held_bytes(trained(backbone).values())
    assert adapter_bytes(meta_backbone(SIZES), Storage(rank=4)) == learns
    found = dmd_bytes(rank=4, frozen=torch.bfloat16)
    assert found["student: gradients"] == found["student: moving average"] == learns
    half = held_bytes(meta_backbone(SIZES, torch.bfloat16).parameters())
    assert found["student: weights"] == learns + half


def test_optimizer_states_of_muon_and_adamw():
    backbone = Backbone(SIZES).requires_grad_(True)
    optimizers = muon_and_adamw(backbone, lr=1e-3, matrix_lr=1e-3)
    for weight in backbone.parameters():
        weight.grad = torch.ones_like(weight)
    update(trained(backbone).values(), optimizers, 1.0)
    held = sum(
        held_bytes(value for value in state.values() if value.ndim)
        for optimizer in optimizers
        for state in optimizer.state.values()
    )
    parts = learner_parts("it", meta_backbone(SIZES), is_matrix=is_layer_matrix)
    assert {part.name: part.bytes for part in parts}["it: optimizer states"] == held
