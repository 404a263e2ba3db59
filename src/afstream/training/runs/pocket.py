"""The stages of a pocket recipe: codec, clips, student, teacher, short, long, export."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from afstream.checkpoints.weights import load_into
from afstream.config import MEMORIES, BackboneConfig, SamplerConfig
from afstream.families.pocket.model import PocketParts, bundle, load_parts, save_pocket
from afstream.families.pocket.scene import WORLD_PX
from afstream.families.pocket.text import vocabulary
from afstream.families.pocket.vae import PocketVae, load_vae, save_vae
from afstream.geometry import CHUNK_FRAMES, Geometry
from afstream.memory_plan.count import META
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import (
    TrainingReport,
    clip_bytes,
    dmd_parts,
    learner_parts,
    meta_backbone,
)
from afstream.model.bundle import VideoModel
from afstream.model.dit import Backbone
from afstream.training.dmd.trainer import Models
from afstream.training.pocket.data import Clips, make_clips
from afstream.training.pocket.prompts import PocketPrompts
from afstream.training.pocket.student import Student
from afstream.training.pocket.student_trainer import StudentTrainer
from afstream.training.pocket.teacher_trainer import TeacherTrainer
from afstream.training.pocket.vae_trainer import VaeTrainer
from afstream.training.recipes.tables import PocketRecipe
from afstream.training.runs.dmd_stage import CRITIC, EMA, STUDENT, DmdStage
from afstream.training.runs.stages import RunContext, Stage, StagePlan
from afstream.training.runs.watch import draw_sheet
from afstream.training.trainer.files import save_tensors
from afstream.training.trainer.loop import Report
from afstream.training.trainer.optim import is_layer_matrix

POCKET_BACKBONE = BackboneConfig(
    dim=192, ffn_dim=576, freq_dim=128, text_dim=96, text_len=24, num_heads=6, num_layers=6
)
WORLD = Geometry(width_px=WORLD_PX, height_px=WORLD_PX)
# of a latent frame, (C, h, w)
SIZE = (POCKET_BACKBONE.in_dim, WORLD.latent_height, WORLD.latent_width)
CODEC, BEGUN, TEACHER = "vae.safetensors", "student.safetensors", "teacher.safetensors"
MODEL = "pocket.safetensors"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class PocketContext(RunContext):
    """A pocket recipe in a folder, and what its stages have made there."""

    recipe: PocketRecipe

    @property
    def is_new(self) -> bool:
        """Whether codec and student are trained, too."""
        return self.recipe.start.student == "new"

    def begin(self) -> PocketParts:
        """Codec, text encoder and student that distillation begins with."""
        if not self.is_new:
            return load_parts()
        student = self._load(Student(POCKET_BACKBONE, vocabulary()), BEGUN, "student")
        return PocketParts(student.backbone, student.text, self.codec(), SamplerConfig())

    def codec(self) -> PocketVae:
        """The codec, without gradients."""
        if not self.is_new:
            return load_parts().vae
        return load_vae(self.made(CODEC, "vae")).requires_grad_(False).eval()

    def backbone(self, name: str, stage: str) -> Backbone:
        """A backbone that a stage has made, without gradients."""
        return self._load(Backbone(POCKET_BACKBONE), name, stage)

    def clips(self, name: str) -> Clips:
        """Clips that the stage `clips` has made."""
        return Clips.load(self.made(f"{name}.safetensors", "clips"))

    def _load(self, module: Module, name: str, stage: str) -> Module:
        path = self.made(name, stage)
        load_into(module, load_file(path), what=str(path))
        return module.requires_grad_(False).eval()


def pocket_stages(recipe: PocketRecipe, folder: Path) -> tuple[Stage[PocketContext], ...]:
    """All stages in their order; `vae` and `student` are left out where the model is embedded."""
    context = PocketContext(recipe=recipe, folder=folder)
    begun = "student" if context.is_new else "the embedded model"
    vae, student = VaeStage(context), StudentStage(context)
    clips, teacher = ClipsStage(context), TeacherStage(context)
    short = PocketDmdStage(context, "short", recipe.short, reads=(begun, "teacher"), geometry=WORLD)
    long = PocketDmdStage(context, "long", recipe.long, reads=("short", "teacher"), geometry=WORLD)
    export = ExportStage(context)
    if context.is_new:
        return vae, clips, student, teacher, short, long, export
    return clips, teacher, short, long, export


class VaeStage(Stage[PocketContext]):
    """Trains the codec."""

    def __init__(self, context: PocketContext) -> None:
        table = context.recipe.vae
        super().__init__(context, "vae", [CODEC], steps=table.steps, batch=table.batch)

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        table = self.context.recipe.vae
        with torch.device(META):
            vae = PocketVae()
        return StagePlan(
            summary=f"the codec, on windows of {table.window_frames} video frames",
            rates=(("lr", table.learning_rate),),
            memory=TrainingReport.of(
                lambda _: learner_parts(
                    "codec", vae, is_matrix=lambda _, weight: weight.ndim > 1, averaged=False
                )
            ),
        )

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        trainer = VaeTrainer(self.context.recipe.vae)
        self.train(trainer, report)
        save_vae(trainer.finish(), self.outputs[0])


class ClipSet(NamedTuple):
    """Clips that are made together, for one purpose."""

    name: str
    num_clips: int
    frames: int
    switch_frames: tuple[int, ...]
    seed: int


class ClipsStage(Stage[PocketContext]):
    """Renders, captions and encodes the clips that student and teacher learn from."""

    def __init__(self, context: PocketContext) -> None:
        table = context.recipe.clips
        self._sets = [
            ClipSet(
                *("windows", table.windows, table.window_frames),
                *(table.window_switch_frames, table.window_seed),
            )
        ]
        if context.is_new:
            self._sets[:0] = [
                ClipSet("firsts", table.firsts, CHUNK_FRAMES, (0,), table.seed),
                ClipSet("clips", table.clips, table.frames, table.switch_frames, table.seed),
            ]
        super().__init__(context, "clips", [f"{each.name}.safetensors" for each in self._sets])

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        parts = [
            Part(name=each.name, bytes=clip_bytes(each.num_clips, (each.frames, *SIZE)))
            for each in self._sets
        ]
        return StagePlan(
            summary=", ".join(
                f"{each.num_clips} {each.name} of {each.frames} latent frames"
                for each in self._sets
            ),
            reads=("vae" if self.context.is_new else "the embedded model",),
            memory=TrainingReport.of(lambda _: parts),
        )

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        vae = self.context.codec()
        for path, (name, count, frames, switches, seed) in zip(
            self.outputs, self._sets, strict=True
        ):
            if path.is_file():
                continue

            def tell(done: int, name: str = name, count: int = count) -> None:
                report({"kind": name, "done": done, "of": count})

            make_clips(
                vae, count=count, num_frames=frames, switch_frames=switches, seed=seed, report=tell
            ).save(path)


class StudentStage(Stage[PocketContext]):
    """Trains the causal student by teacher forcing."""

    def __init__(self, context: PocketContext) -> None:
        table = context.recipe.student
        super().__init__(context, "student", [BEGUN], steps=table.steps, batch=table.clip_batch)

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        table = self.context.recipe.student
        with torch.device(META):
            student = Student(POCKET_BACKBONE, vocabulary())
        return StagePlan(
            summary="causal initialisation: teacher forcing on first chunks, on clips, on its own"
            " past",
            reads=("clips",),
            rates=(("lr", table.lr), ("hidden_lr", table.hidden_lr)),
            memory=TrainingReport.of(
                lambda _: learner_parts("student", student, is_matrix=is_layer_matrix)
            ),
        )

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        context = self.context
        clips, firsts = context.clips("clips"), context.clips("firsts")
        trainer = StudentTrainer(
            context.recipe.student, POCKET_BACKBONE, vocabulary(), clips, firsts
        )
        student, vae = trainer.student, context.codec()
        parts = PocketParts(student.backbone, student.text, vae, SamplerConfig())
        model = bundle(parts, name="pocket", details={})

        def draw(path: Path) -> None:
            with trainer.ema.in_place_of(student):
                draw_sheet(model, MEMORIES["anchor"], context.recipe.sheet, path)

        self.train(trainer, report, draw)
        save_tensors(self.outputs[0], trainer.ema.weights)


class TeacherStage(Stage[PocketContext]):
    """Trains the bidirectional teacher."""

    def __init__(self, context: PocketContext) -> None:
        table = context.recipe.teacher
        super().__init__(context, "teacher", [TEACHER], steps=table.steps, batch=table.batch)

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        context = self.context
        table, frames = context.recipe.teacher, context.recipe.clips.window_frames
        backbone = meta_backbone(POCKET_BACKBONE)
        return StagePlan(
            summary=f"the bidirectional teacher, on windows of {frames} latent frames",
            reads=("student" if context.is_new else "the embedded model", "clips"),
            rates=(("lr", table.lr), ("hidden_lr", table.hidden_lr)),
            memory=TrainingReport.of(
                lambda _: learner_parts("teacher", backbone, is_matrix=is_layer_matrix)
            ),
        )

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        begun = self.context.begin()
        clips = self.context.clips("windows")
        trainer = TeacherTrainer(self.context.recipe.teacher, begun.backbone, begun.text, clips)
        self.train(trainer, report)
        save_tensors(self.outputs[0], trainer.ema.weights)


class PocketDmdStage(DmdStage[PocketContext]):
    """DMD of the pocket student: `short` begins with the student, `long` with `short`."""

    def count_memory(self) -> TrainingReport:
        """See `DmdStage.count_memory`."""
        config = self.config

        def count(_: int) -> Iterator[Part]:
            return dmd_parts(
                config.policy, POCKET_BACKBONE, POCKET_BACKBONE, WORLD, rows=config.batch
            )

        return TrainingReport.of(count)

    def open_models(self) -> tuple[Models, VideoModel]:
        """See `DmdStage.open_models`."""
        context = self.context
        begun, teacher = context.begin(), context.backbone(TEACHER, "teacher")
        student, critic = begun.backbone, deepcopy(teacher)
        if self.name == "long":
            student = context.backbone(STUDENT.format("short"), "short")
            critic = context.backbone(CRITIC.format("short"), "short")
        models = Models(
            student=student.requires_grad_(True),
            critic=critic.requires_grad_(True),
            teacher=teacher,
            codec=begun.vae,
            prompts=PocketPrompts(begun.text, self.config.seed),
        )
        return models, bundle(begun._replace(backbone=student), name="pocket", details={})


class ExportStage(Stage[PocketContext]):
    """Writes the model file."""

    always = True

    def __init__(self, context: PocketContext) -> None:
        super().__init__(context, "export", [MODEL])

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        return StagePlan(summary="the model file", reads=(self.context.recipe.export.stage,))

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        context = self.context
        recipe, name = context.recipe, context.recipe.export.stage
        tuned = context.backbone(EMA.format(name), name) if name != "student" else None
        begun = context.begin()
        stages = pocket_stages(recipe, context.folder)
        steps = {stage.name: stage.saved_step for stage in stages if stage.steps}
        partial = self.outputs[0].with_suffix(".partial")
        save_pocket(
            partial,
            backbone=tuned or begun.backbone,
            text=begun.text,
            vae=begun.vae,
            recipe={"steps": steps, "recipe": recipe.model_dump()},
        )
        partial.replace(self.outputs[0])
