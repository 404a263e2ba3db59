"""The stages of a pocket recipe, from the codec to the model file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from afstream.checkpoints.files import save_tensors
from afstream.config import SamplerConfig
from afstream.errors import ConfigError, PromptError
from afstream.families.base import VideoModel
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.model import PocketParts, bundle, save_pocket
from afstream.families.pocket.vae import PocketVae, save_vae
from afstream.families.pocket.vocabulary import TEXT_LEN, known_words, vocabulary
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.count import META, held_bytes
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import IsMatrix, clip_bytes, dmd_parts, learner_parts
from afstream.model.dit import Backbone
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import Models
from afstream.training.pocket.data import PocketPrompts, make_clips
from afstream.training.pocket.retention_trainer import RetentionTrainer
from afstream.training.pocket.student import Student
from afstream.training.pocket.student_trainer import StudentTrainer
from afstream.training.pocket.teacher_trainer import TeacherTrainer
from afstream.training.pocket.vae_trainer import VaeTrainer, is_matrix
from afstream.training.recipes.tables import PocketRecipe, PocketStart
from afstream.training.runs.dmd_stage import CRITIC, STUDENT, dmd_stage
from afstream.training.runs.pocket_context import (
    BEGUN,
    CLIPS,
    CODEC,
    MODEL,
    RETAINED,
    SIZE,
    TEACHER,
    WORLD,
    PocketContext,
    fresh_student,
)
from afstream.training.runs.record import Record, read_record, tables
from afstream.training.runs.stages import Stage
from afstream.training.trainer.log import Report
from afstream.training.trainer.optim import is_layer_matrix


def pocket_stages(recipe: PocketRecipe, folder: Path) -> tuple[Stage, ...]:
    """All stages in their order; `vae` and `student` are left out where the model is given.

    Raises:
        ConfigError: the model does not know a word of the sheets' timeline, or the model or the
            device to begin with is not there.
    """
    _check_words(recipe)
    _check_start(recipe.start)
    context = PocketContext(recipe=recipe, folder=folder)
    new = context.is_new
    stages = (
        _vae(context) if new else None,
        _clips(context),
        _student(context) if new else None,
        _teacher(context),
        _dmd(context, "short", recipe.short, context.begun),
        _dmd(context, "long", recipe.long, "short"),
        _retention(context),
        _export(context),
    )
    return tuple(stage for stage in stages if stage)


def _check_words(recipe: PocketRecipe) -> None:
    try:
        for cue in recipe.sheet.parsed().cues:
            known_words(cue.prompt, vocabulary(), TEXT_LEN)
    except PromptError as error:
        raise ConfigError(f"sheet.timeline: {error}") from error


def _check_start(start: PocketStart) -> None:
    if start.student not in {"new", "embedded"} and not Path(start.student).is_file():
        raise ConfigError(
            f"start.student is {start.student!r}; it must be new, embedded, or the path of a pocket"
            " model file"
        )
    try:
        torch.empty(0, device=start.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"start.device is {start.device!r}, which is not there; use cpu, or cuda where there is"
            " an NVIDIA GPU"
        ) from error


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
        trainer = VaeTrainer(config, device=context.device)
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
        trainer = StudentTrainer(
            *(config, context.sizes, vocabulary(), clips, firsts), device=context.device
        )
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
        memory=lambda _: _learner("teacher", lambda: Backbone(context.sizes), is_layer_matrix),
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
        memory=lambda _: dmd_parts(policy, context.sizes, context.sizes, WORLD, rows=config.batch),
    )


def _retention(context: PocketContext) -> Stage:
    config = context.recipe.retention
    before = context.begun if config.begins_with == "student" else config.begins_with

    def run(report: Report) -> None:
        begun = context.student_of(config.begins_with)
        student = Student(begun.backbone, begun.text)
        trainer = RetentionTrainer(config, student, context.clips("clips"))
        model = bundle(begun, POCKET, name="pocket", details={})

        draw = context.sheets(trainer.ema, model, memory_policy("anchor", POCKET.lengths), WORLD)
        context.train("retention", trainer, config.steps, report, draw)
        save_tensors(context.folder / RETAINED, trainer.ema.weights)

    def memory(_: int) -> Iterator[Part]:
        yield from _learner("student", fresh_student, is_layer_matrix)
        with torch.device(META):
            yield Part(name="guide: weights", bytes=held_bytes(fresh_student().parameters()))

    return Stage(
        context=context,
        name="retention",
        summary="keeping what a caption leaves out, on the chunks behind a switch",
        reads=(before, "clips"),
        files=(RETAINED,),
        run=run,
        steps=config.steps,
        batch=config.batch,
        rates={"lr": config.lr, "hidden_lr": config.hidden_lr},
        memory=memory,
    )


def _export(context: PocketContext) -> Stage:
    recipe, name = context.recipe, context.recipe.export.stage

    def run(report: Report) -> None:
        del report
        parts = context.student_of(name)
        stages = pocket_stages(recipe, context.folder)
        record = read_record(context.folder) or Record(recipe=tables(recipe))
        steps = {stage.name: stage.saved_step for stage in stages if stage.steps}
        save_pocket(
            context.folder / MODEL,
            backbone=parts.backbone,
            text=parts.text,
            vae=parts.vae,
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
