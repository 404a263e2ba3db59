"""A pocket recipe in a folder: its networks, and what its stages leave for each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from afstream.checkpoints.files import load_into
from afstream.config import BackboneConfig, SamplerConfig
from afstream.families.pocket.facts import POCKET_PATH
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.model import PocketParts, load_parts
from afstream.families.pocket.vae import PocketVae, load_vae
from afstream.families.pocket.vocabulary import TEXT_LEN, vocabulary
from afstream.model.dit import Backbone
from afstream.training.pocket.data import Clips
from afstream.training.pocket.student import Student
from afstream.training.recipes.tables import PocketRecipe
from afstream.training.runs.dmd_stage import EMA
from afstream.training.runs.stages import RunContext

POCKET_BACKBONE = BackboneConfig(
    dim=192,
    ffn_dim=576,
    freq_dim=128,
    text_dim=96,
    text_len=TEXT_LEN,
    num_heads=6,
    num_layers=6,
    patch=2,
)
WORLD = POCKET.geometry
SIZE = (POCKET_BACKBONE.in_dim, WORLD.latent_height, WORLD.latent_width)
CODEC, BEGUN, TEACHER = "vae.safetensors", "student.safetensors", "teacher.safetensors"
RETAINED, CLIPS, MODEL = "retention.safetensors", "{}.safetensors", "pocket.safetensors"

Module = TypeVar("Module", bound=nn.Module)


def fresh_student() -> Student:
    """A student of the pocket model's size."""
    return Student.fresh(POCKET_BACKBONE, vocabulary())


@dataclass(frozen=True, kw_only=True)
class PocketContext(RunContext):
    """A pocket recipe in a folder, and what its stages have made there."""

    recipe: PocketRecipe

    @property
    def sizes(self) -> BackboneConfig:
        """Of student, teacher and critic."""
        return POCKET_BACKBONE

    @property
    def device(self) -> torch.device:
        """Where networks learn."""
        return torch.device(self.recipe.start.device)

    @property
    def is_new(self) -> bool:
        """Whether codec and student are trained, too."""
        return self.recipe.start.student == "new"

    @property
    def begun(self) -> str:
        """Name of what distillation begins with."""
        named = {"new": "student", "embedded": "the embedded model"}
        return named.get(self.recipe.start.student, self.recipe.start.student)

    @property
    def given(self) -> PocketParts:
        """The networks that a run of a given model begins with."""
        name = self.recipe.start.student
        path = POCKET_PATH if name == "embedded" else Path(name)
        return load_parts(path, device=self.device)

    def begin(self) -> PocketParts:
        """Codec, text encoder and student that distillation begins with."""
        if not self.is_new:
            return self.given
        student = self._load(fresh_student(), BEGUN, "student")
        return PocketParts(student.backbone, student.text, self.codec(), SamplerConfig())

    def student_of(self, stage: str) -> PocketParts:
        """Codec, text encoder and student as a stage left them, in its moving average."""
        if stage == "student":
            return self.begin()
        if stage == "retention":
            student = self._load(fresh_student(), RETAINED, stage)
            return self.begin()._replace(backbone=student.backbone, text=student.text)
        backbone = self.backbone(EMA.format(stage), stage)
        return self.begin()._replace(backbone=backbone)

    def codec(self) -> PocketVae:
        """The codec, without gradients."""
        if not self.is_new:
            return self.given.vae
        with self.reading(CODEC, "vae") as path:
            return load_vae(path).requires_grad_(False).eval().to(self.device)

    def backbone(self, name: str, stage: str) -> Backbone:
        """A backbone that a stage has made, without gradients."""
        return self._load(Backbone(self.sizes), name, stage)

    def clips(self, name: str) -> Clips:
        """Clips that the stage `clips` has made."""
        with self.reading(CLIPS.format(name), "clips") as path:
            return Clips.load(path)

    def _load(self, module: Module, name: str, stage: str) -> Module:
        with self.reading(name, stage) as path:
            load_into(module, load_file(path), what=str(path))
        return module.requires_grad_(False).eval().to(self.device)
