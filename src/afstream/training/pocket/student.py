"""The pocket student: its settings in the recipe, its networks, and their fresh weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from afstream.config import BackboneConfig
from afstream.families.pocket.text import PocketText
from afstream.model.dit import Backbone
from afstream.training.trainer.settings import Amount, Count, MuonConfig, Share, Whole


class StudentConfig(MuonConfig):
    """`[student]`: causal initialisation by teacher forcing; see `student_trainer`.

    Attributes:
        first_steps: number of steps at the beginning that see first chunks only.
        own_from: step from which on the past is the model's own in `own_share` of the steps.
        own_share: see `own_from`.
        first_batch: first chunks in a step of kind 1.
        side_batch: first chunks beside the clips in a step of kind 2 or 3.
        clip_batch: clips in a step.
        past_noise: largest sigma of the noise laid on a clean past.
        switch_weight: weight of the two chunks that follow a switch.
    """

    first_steps: Whole
    own_from: Whole
    own_share: Share
    first_batch: Count
    side_batch: Count
    clip_batch: Count
    past_noise: Share
    switch_weight: Amount


class Student(nn.Module):
    """Backbone and text encoder, trained together.

    Args:
        backbone: sizes.
        words: vocabulary of the text encoder.
    """

    def __init__(self, backbone: BackboneConfig, words: Sequence[str]) -> None:
        super().__init__()
        self.backbone = Backbone(backbone)
        self.text = PocketText(words, text_dim=backbone.text_dim, text_len=backbone.text_len)
        initialise(self.backbone)


def initialise(backbone: Backbone) -> None:
    """Draw fresh weights: Xavier for linear maps, zeros for the head, small ones for the gates."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(backbone.head.head.weight)
    projection = backbone.time_projection[1]
    nn.init.normal_(projection.weight, std=0.02)  # pyright: ignore[reportArgumentType]
