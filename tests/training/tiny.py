"""Distribution matching small enough for tests."""

from copy import deepcopy

import torch
from tests.engine.toy import SIZES, toy_backbone

from afstream.config import SamplerConfig
from afstream.families.pocket.text import PocketText, vocabulary
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.training.dmd.sequences import WindowPlan
from afstream.training.dmd.trainer import MatchingConfig, MatchingTrainer, Models
from afstream.training.pocket.prompts import PocketPrompts


def match_trainer() -> MatchingTrainer:
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
    config = MatchingConfig(
        iterations=4,
        critic_updates=1,
        batch=1,
        plan=WindowPlan(max_frames=21),
        switch=False,
        lr=1e-3,
        critic_lr=1e-3,
    )
    return MatchingTrainer(
        config, models, memory_policy("anchor", LENGTHS), SamplerConfig(), (16, 2, 4)
    )
