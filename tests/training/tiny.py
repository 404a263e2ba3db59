"""Distribution matching small enough for tests."""

from copy import deepcopy
from typing import Any

import torch
from tests.engine.toy import SIZES, toy_backbone

from afstream.config import SamplerConfig
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.text import PocketText
from afstream.families.pocket.vocabulary import vocabulary
from afstream.kvcache.memories import memory_policy
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import DmdTrainer, Models
from afstream.training.pocket.data import PocketPrompts


def dmd_config(**changes: Any) -> DmdConfig:
    """Settings of a stage, some of them changed."""
    values = {
        "memory": "anchor",
        "iterations": 8,
        "critic_updates": 5,
        "batch": 8,
        "grad_accum": 1,
        "horizon_frames": 21,
        "overlap_frames": 3,
        "max_frames": 240,
        "switch": True,
        "full_prompts": False,
        "guidance": 3.0,
        "shift": 5.0,
        "lr": 1e-3,
        "critic_lr": 1e-3,
        "betas": (0.0, 0.999),
        "weight_decay": 0.01,
        "clip": 10.0,
        "ema": 0.99,
        "ema_from": 200,
        "seed": 0,
    }
    return DmdConfig.model_validate(values | changes)


def dmd_trainer() -> DmdTrainer:
    """A trainer whose student learns with every step."""
    backbone = toy_backbone()
    torch.manual_seed(1)
    text = PocketText(vocabulary(), text_dim=SIZES.text_dim, text_len=SIZES.text_len)
    models = Models(
        student=deepcopy(backbone).requires_grad_(True),
        critic=deepcopy(backbone).requires_grad_(True),
        teacher=backbone,
        codec=None,
        prompts=PocketPrompts(text, 0),
    )
    config = dmd_config(iterations=4, critic_updates=1, batch=1, max_frames=21, switch=False)
    policy = memory_policy("anchor", POCKET.lengths)
    return DmdTrainer(config, models, policy, SamplerConfig(), (16, 2, 4))
