"""A video model small enough for tests: random weights, the real classes."""

from dataclasses import replace

import torch
from torch import nn

from afstream.config import BackboneConfig, SamplerConfig
from afstream.families.base import ModelFamily, VideoModel
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.text import PocketText
from afstream.families.pocket.vae import PocketVae, VaeConfig
from afstream.families.pocket.vocabulary import vocabulary
from afstream.model.dit import Backbone

SIZES = BackboneConfig(
    dim=32, ffn_dim=48, freq_dim=16, text_dim=8, text_len=24, num_heads=1, num_layers=2, patch=2
)
CODEC = VaeConfig(
    coarse=8, middle=8, fine=8, encoder_coarse=8, encoder_middle=8, encoder_fine=8, coarse_layers=1
)


class ToyFamily(ModelFamily):
    name = "toy"
    given_as = "'toy' (in tests)"
    format = POCKET.format
    geometry = replace(POCKET.geometry, width_px=32, height_px=16)
    lengths = POCKET.lengths

    def __init__(self, *, any_size: bool = True) -> None:
        self.any_size = any_size

    def names(self, spec):
        return spec.name == self.name

    def open(self, spec, where, prompts=()):
        return toy_model(any_size=self.any_size)


def toy_backbone() -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone(SIZES)
    for weight in backbone.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    return backbone.requires_grad_(False).eval()


def toy_model(*, any_size: bool = True) -> VideoModel:
    backbone = toy_backbone()
    text = PocketText(vocabulary(), text_dim=SIZES.text_dim, text_len=SIZES.text_len)
    return VideoModel(
        name="toy",
        family=ToyFamily(any_size=any_size),
        backbone=backbone,
        text=text.requires_grad_(False).eval(),
        vae=PocketVae(CODEC).requires_grad_(False).eval(),
        sampler=SamplerConfig(),
    )
