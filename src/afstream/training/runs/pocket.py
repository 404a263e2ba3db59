"""The stages of a pocket recipe: codec, clips, student, teacher, short, long, export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from afstream.checkpoints.files import load_into, save_tensors
from afstream.config import BackboneConfig, SamplerConfig
from afstream.errors import ConfigError, PromptError
from afstream.families.base import VideoModel
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.model import PocketParts, bundle, load_parts, save_pocket
from afstream.families.pocket.vae import PocketVae, load_vae, save_vae
from afstream.families.pocket.vocabulary import TEXT_LEN, known_words, vocabulary
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.count import META
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import IsMatrix, clip_bytes, dmd_parts, learner_parts
from afstream.model.dit import Backbone
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import Models
from afstream.training.pocket.data import Clips, PocketPrompts, make_clips
from afstream.training.pocket.student_trainer import Student, StudentTrainer
from afstream.training.pocket.teacher_trainer import TeacherTrainer
from afstream.training.pocket.vae_trainer import VaeTrainer, is_matrix
from afstream.training.recipes.tables import PocketRecipe
from afstream.training.runs.dmd_stage import CRITIC, EMA, STUDENT, dmd_stage
from afstream.training.runs.record import Record, read_record, tables
from afstream.training.runs.stages import RunContext, Stage
from afstream.training.trainer.log import Report
from afstream.training.trainer.optim import is_layer_matrix

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
CLIPS, MODEL = "{}.safetensors", "pocket.safetensors"

Module = TypeVar("Module", bound=nn.Module)


def fresh_student() -> Student:
    """A student of the pocket model's size."""
    return Student(POCKET_BACKBONE, vocabulary())


@dataclass(frozen=True, kw_only=True)
class PocketContext(RunContext):
    """A pocket recipe in a folder, and what its stages have made there."""

    recipe: PocketRecipe

    @property
    def is_new(self) -> bool:
        """Whether codec and student are trained, too."""
        return self.recipe.start.student == "new"

    @property
    def begun(self) -> str:
        """Name of what distillation begins with."""
        return "student" if self.is_new else "the embedded model"

    def begin(self) -> PocketParts:
        """Codec, text encoder and student that distillation begins with."""
        if not self.is_new:
            return load_parts()
        student = self._load(fresh_student(), BEGUN, "student")
        return PocketParts(student.backbone, student.text, self.codec(), SamplerConfig())

    def codec(self) -> PocketVae:
        """The codec, without gradients."""
        if not self.is_new:
            return load_parts().vae
        with self.reading(CODEC, "vae") as path:
            return load_vae(path).requires_grad_(False).eval()

    def backbone(self, name: str, stage: str) -> Backbone:
        """A backbone that a stage has made, without gradients."""
        return self._load(Backbone(POCKET_BACKBONE), name, stage)

    def clips(self, name: str) -> Clips:
        """Clips that the stage `clips` has made."""
        with self.reading(CLIPS.format(name), "clips") as path:
            return Clips.load(path)

    def _load(self, module: Module, name: str, stage: str) -> Module:
        with self.reading(name, stage) as path:
            load_into(module, load_file(path), what=str(path))
        return module.requires_grad_(False).eval()


def pocket_stages(recipe: PocketRecipe, folder: Path) -> tuple[Stage, ...]:
    """All stages in their order; `vae` and `student` are left out where the model is embedded.

    Raises:
        ConfigError: the model does not know a word of the sheets' timeline.
    """
    _check_words(recipe)
    context = PocketContext(recipe=recipe, folder=folder)
    new = context.is_new
    stages = (
        _vae(context) if new else None,
        _clips(context),
        _student(context) if new else None,
        _teacher(context),
        _dmd(context, "short", recipe.short, context.begun),
        _dmd(context, "long", recipe.long, "short"),
        _export(context),
    )
    return tuple(stage for stage in stages if stage)


def _check_words(recipe: PocketRecipe) -> None:
    try:
        for cue in recipe.sheet.parsed().cues:
            known_words(cue.prompt, vocabulary(), TEXT_LEN)
    except PromptError as error:
        raise ConfigError(f"sheet.timeline: {error}") from error


def _learner(
    name: str, make: Callable[[], nn.Module], is_matrix: IsMatrix, *, averaged: bool = True
) -> Iterator[Part]:
    """The memory of a network that learns with Muon and AdamW; see `learner_parts`."""
    with torch.device(META):
        module = make()
    return learner_parts(name, module, is_matrix=is_matrix, averaged=averaged)


def _vae(context: PocketContext) -> Stage:
    config = context.recipe.vae

    def run(report: Report) -> None:
        trainer = VaeTrainer(config)
        context.train("vae", trainer, config.steps, report)
        save_vae(trainer.finish(), context.folder / CODEC)

    return Stage(
        context=context,
        name="vae",
        summary=f"the codec, on windows of {config.window_frames} video frames",
        files=(CODEC,),
        run=run,
        steps=config.steps,
        batch=config.batch,
        rates={"lr": config.learning_rate},
        memory=lambda _: _learner("codec", PocketVae, is_matrix, averaged=False),
    )


def _clips(context: PocketContext) -> Stage:
    sets = context.recipe.clips.sets(with_student=context.is_new)

    def run(report: Report) -> None:
        vae = context.codec()
        for one in sets:
            path = context.folder / CLIPS.format(one.name)
            if not path.is_file():
                make_clips(vae, one, report=report).save(path)

    def memory(_: int) -> Iterator[Part]:
        for each in sets:
            yield Part(name=each.name, bytes=clip_bytes(each.num_clips, (each.frames, *SIZE)))

    return Stage(
        context=context,
        name="clips",
        summary=", ".join(
            f"{each.num_clips} {each.name} of {each.frames} latent frames" for each in sets
        ),
        reads=("vae" if context.is_new else context.begun,),
        files=tuple(CLIPS.format(each.name) for each in sets),
        run=run,
        memory=memory,
    )


def _student(context: PocketContext) -> Stage:
    config = context.recipe.student

    def run(report: Report) -> None:
        clips, firsts = context.clips("clips"), context.clips("firsts")
        trainer = StudentTrainer(config, POCKET_BACKBONE, vocabulary(), clips, firsts)
        student, vae = trainer.student, context.codec()
        parts = PocketParts(student.backbone, student.text, vae, SamplerConfig())
        model = bundle(parts, POCKET, name="pocket", details={})
        policy = memory_policy("anchor", POCKET.lengths)

        draw = context.sheets(trainer.ema, model, policy, WORLD)
        context.train("student", trainer, config.steps, report, draw)
        save_tensors(context.folder / BEGUN, trainer.ema.weights)

    return Stage(
        context=context,
        name="student",
        summary="causal initialisation: teacher forcing on first chunks, on clips, on its own past",
        reads=("clips",),
        files=(BEGUN,),
        run=run,
        steps=config.steps,
        batch=config.clip_batch,
        rates={"lr": config.lr, "hidden_lr": config.hidden_lr},
        memory=lambda _: _learner("student", fresh_student, is_layer_matrix),
    )


def _teacher(context: PocketContext) -> Stage:
    config, frames = context.recipe.teacher, context.recipe.clips.window_frames

    def run(report: Report) -> None:
        begun, clips = context.begin(), context.clips("windows")
        trainer = TeacherTrainer(config, begun.backbone, begun.text, clips)
        context.train("teacher", trainer, config.steps, report)
        save_tensors(context.folder / TEACHER, trainer.ema.weights)

    return Stage(
        context=context,
        name="teacher",
        summary=f"the bidirectional teacher, on windows of {frames} latent frames",
        reads=(context.begun, "clips"),
        files=(TEACHER,),
        run=run,
        steps=config.steps,
        batch=config.batch,
        rates={"lr": config.lr, "hidden_lr": config.hidden_lr},
        memory=lambda _: _learner("teacher", lambda: Backbone(POCKET_BACKBONE), is_layer_matrix),
    )


def _dmd(context: PocketContext, name: str, config: DmdConfig, before: str) -> Stage:
    """DMD of the pocket student: `short` begins with the student, `long` with `short`."""
    policy = memory_policy(config.memory, POCKET.lengths)

    def open_models() -> tuple[Models, VideoModel]:
        begun, teacher = context.begin(), context.backbone(TEACHER, "teacher")
        student, critic = begun.backbone, deepcopy(teacher)
        if name == "long":
            student = context.backbone(STUDENT.format(before), before)
            critic = context.backbone(CRITIC.format(before), before)
        models = Models(
            student=student.requires_grad_(True),
            critic=critic.requires_grad_(True),
            teacher=teacher,
            codec=begun.vae,
            prompts=PocketPrompts(begun.text, config.seed),
        )
        return models, bundle(begun._replace(backbone=student), POCKET, name="pocket", details={})

    return dmd_stage(
        *(context, name, config),
        reads=(before, "teacher"),
        open_models=open_models,
        policy=policy,
        geometry=WORLD,
        memory=lambda _: dmd_parts(
            policy, POCKET_BACKBONE, POCKET_BACKBONE, WORLD, rows=config.batch
        ),
    )


def _export(context: PocketContext) -> Stage:
    recipe, name = context.recipe, context.recipe.export.stage

    def run(report: Report) -> None:
        del report
        tuned = context.backbone(EMA.format(name), name) if name != "student" else None
        begun = context.begin()
        stages = pocket_stages(recipe, context.folder)
        record = read_record(context.folder) or Record(recipe=tables(recipe))
        steps = {stage.name: stage.saved_step for stage in stages if stage.steps}
        save_pocket(
            context.folder / MODEL,
            backbone=tuned or begun.backbone,
            text=begun.text,
            vae=begun.vae,
            recipe={"steps": steps, **record.ran()},
        )

    return Stage(
        context=context,
        name="export",
        summary="the model file",
        reads=(name,),
        files=(MODEL,),
        run=run,
        always=True,
    )
