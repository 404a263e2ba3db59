"""A run of distribution matching small enough to be killed, divided and repeated in tests.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/training/tiny_run.py \
        RESULTS.pt full sharded
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from tests.training.tiny import dmd_config
from torch import nn

from afstream.config import BackboneConfig, SamplerConfig
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone
from afstream.training.dmd.sequences import WindowPlan
from afstream.training.dmd.trainer import DmdTrainer, Models
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.distributed import ALONE, Processes, gathered, joined, shard
from afstream.training.trainer.loop import train
from afstream.training.trainer.lora import adapt
from afstream.training.trainer.optim import trained
from afstream.training.trainer.rng import normal

SIZES = BackboneConfig(
    dim=64, ffn_dim=96, freq_dim=32, text_dim=16, text_len=6, num_heads=2, num_layers=2, patch=2
)
PLAN = WindowPlan(horizon_frames=6, overlap_frames=3, max_frames=9)
LATENT = (16, 4, 4)


class DrawnPrompts:
    """Embeddings that are drawn by number."""

    def pair(self, numbers):
        first, second = normal((2, 6, SIZES.text_dim), numbers, 0, "prompts").unbind(1)
        return first, second

    def full(self, numbers):
        return normal((6, SIZES.text_dim), numbers, 0, "full prompts")

    def unconditional(self, count):
        return torch.zeros(count, 6, SIZES.text_dim)


def make_backbone(seed, sizes=SIZES):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Backbone(sizes)
        for weight in backbone.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.1)
    return backbone


def make_config(**changes):
    small = {"iterations": 8, "critic_updates": 2, "batch": 4, "ema": 0.5, "ema_from": 2}
    return dmd_config(**{**small, **PLAN.model_dump(), **changes})


def make_trainer(
    processes: Processes = ALONE,
    *,
    lora: bool = False,
    sharded: bool = False,
    recompute: bool = False,
    dtype: torch.dtype | None = None,
    **changes,
):
    teacher, student, critic = (make_backbone(seed) for seed in (0, 1, 2))
    teacher.requires_grad_(False)
    for model in (student, critic):
        if lora:
            adapt(model, rank=4, alpha=8)
        if recompute:
            model.recompute_layers()
    if sharded:
        for model in (teacher, student, critic):
            shard(model, processes, dtype=dtype)
    return DmdTrainer(
        make_config(**changes),
        Models(student=student, critic=critic, teacher=teacher, codec=None, prompts=DrawnPrompts()),
        memory_policy("anchor", replace(LENGTHS, window_frames=6)),
        SamplerConfig(steps=(1000, 500)),
        LATENT,
        processes,
    )


def outcome(trainer):
    """Everything that a run ends with, whole."""
    models = trainer.models
    weights = {
        "student": trained(models.student),
        "critic": trained(models.critic),
        "ema": trainer.ema.weights,
    }
    return {name: gathered(part) for name, part in weights.items()}


def run(trainer, folder: Path, processes: Processes = ALONE, *, every=2):
    """To the end, or on from where a killed run was; what was reported, and the outcome."""
    told = []
    train(
        trainer,
        trainer.config.iterations,
        CheckpointStore(folder, processes),
        told.append,
        every=1,
        save_every=every,
    )
    return told, outcome(trainer)


def main(goal: Path, cases: list[str]):
    """Run cases with all processes of the group; the first one writes what came of them."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    found = {}
    with joined("cpu") as processes:
        for case in cases:
            words = case.split("-")
            folder = goal.parent / case

            def once(folder=folder, words=words):
                trainer = make_trainer(
                    processes, lora="lora" in words, sharded="sharded" in words, iterations=4
                )
                return run(trainer, folder, processes)

            found[case] = once()
            # as if it had been killed before the last checkpoint was whole
            if processes.is_first:
                (folder / "step-000004" / "manifest.json").unlink()
            processes.wait()
            found[f"{case}, resumed"] = once()
    if processes.is_first:
        torch.save(found, goal)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
