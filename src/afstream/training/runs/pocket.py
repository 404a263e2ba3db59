"""The pocket recipe in one folder: codec, clips, student, teacher, short, long, export."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from afstream.config import BackboneConfig, SamplerConfig
from afstream.families.pocket.model import PocketParts, bundle, load_parts, save_pocket
from afstream.families.pocket.text import vocabulary
from afstream.families.pocket.vae import PocketVae, load_vae, save_vae
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone
from afstream.training.dmd.trainer import MatchingTrainer, Models
from afstream.training.machinery.loop import OneFile, Report, Trainer, train
from afstream.training.machinery.optim import RunningAverage
from afstream.training.pocket.data import Clips, make_clips
from afstream.training.pocket.prompts import PocketPrompts
from afstream.training.pocket.student_stage import Student, StudentTrainer
from afstream.training.pocket.teacher_stage import TeacherTrainer
from afstream.training.pocket.vae_stage import VaeTrainer
from afstream.training.recipes.tables import MatchingTable, PocketRecipe
from afstream.training.runs.pocket_stages import (
    MODEL,
    POCKET_BACKBONE,
    SIZE,
    clip_sets,
    pocket_stages,
)
from afstream.training.runs.stages import SHEETS, Draw, Observer, Stage, draw_sheet, made

Module = TypeVar("Module", bound=nn.Module)


class PocketRun:
    """See `afstream.training.stages.Run`.

    Args:
        recipe: what is done.
        folder: where everything is written.
    """

    def __init__(self, recipe: PocketRecipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.stages = pocket_stages(recipe, folder)

    def do(self, stage: Stage, report: Report) -> None:
        """See `Run.do`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        work = {
            "vae": self._vae,
            "clips": self._clips,
            "student": self._student,
            "teacher": self._teacher,
            "short": self._short,
            "long": self._long,
            "export": self._export,
        }
        work[stage.name](report)

    def _vae(self, report: Report) -> None:
        trainer = VaeTrainer(self.recipe.vae)
        self._train("vae", trainer, self.recipe.vae.steps, report)
        save_vae(trainer.finish(), self._path("vae.safetensors"))

    def _clips(self, report: Report) -> None:
        vae = self._codec()
        for name, count, frames, switches, seed in clip_sets(self.recipe):
            path = self._path(f"{name}.safetensors")
            if path.is_file():
                continue

            def tell(done: int, name: str = name, count: int = count) -> None:
                report({"kind": name, "done": done, "of": count})

            clips = make_clips(
                vae, count=count, num_frames=frames, switch_frames=switches, seed=seed, report=tell
            )
            partial = path.with_suffix(".partial")
            clips.save(partial)
            partial.replace(path)

    def _student(self, report: Report) -> None:
        config = self.recipe.student
        clips, firsts = self._load_clips("clips"), self._load_clips("firsts")
        trainer = StudentTrainer(config, POCKET_BACKBONE, vocabulary(), clips, firsts)
        copy, vae = deepcopy(trainer.student), self._codec()

        def draw(path: Path) -> None:
            copy.load_state_dict(trainer.average.weights)
            parts = PocketParts(copy.backbone, copy.text, vae, SamplerConfig())
            self._draw(parts, "anchor", path)

        self._train("student", trainer, config.steps, report, draw)

    def _teacher(self, report: Report) -> None:
        begun = self._begin()
        trainer = TeacherTrainer(
            self.recipe.teacher, begun.backbone, begun.text, self._load_clips("windows")
        )
        self._train("teacher", trainer, self.recipe.teacher.steps, report)

    def _short(self, report: Report) -> None:
        teacher = self._load_teacher()
        begun = self._begin()
        self._match("short", self.recipe.short, begun, begun.backbone, deepcopy(teacher), report)

    def _long(self, report: Report) -> None:
        short = self._checkpoint("short")
        student, critic = (
            _loaded(Backbone(POCKET_BACKBONE), short[name]) for name in ("student", "critic")
        )
        self._match("long", self.recipe.long, self._begin(), student, critic, report)

    def _match(
        self,
        name: str,
        table: MatchingTable,
        begun: PocketParts,
        student: Backbone,
        critic: Backbone,
        report: Report,
    ) -> None:
        """A stage of distribution matching; student and critic learn in place."""
        copy = deepcopy(student)
        models = Models(
            student=student.requires_grad_(True),
            critic=critic.requires_grad_(True),
            teacher=self._load_teacher(),
            codec=begun.vae,
            prompts=PocketPrompts(begun.text, table.seed),
        )
        policy = memory_policy(table.memory, LENGTHS)
        trainer = MatchingTrainer(table.config(), models, policy, begun.sampler, SIZE)

        def draw(path: Path) -> None:
            parts = begun._replace(backbone=_averaged(copy, trainer.average))
            self._draw(parts, table.memory, path)

        self._train(name, trainer, table.iterations, report, draw)

    def _export(self, report: Report) -> None:
        del report
        name = self.recipe.export.stage
        content = self._checkpoint(name)
        begun = self._begin()
        if name != "student":
            begun.backbone.load_state_dict(content["average"])
        done = {stage.name: stage.saved_step for stage in self.stages if stage.checkpoint}
        partial = self._path("model.partial")
        save_pocket(
            partial,
            backbone=begun.backbone,
            text=begun.text,
            vae=begun.vae,
            recipe={"steps": done, "recipe": asdict(self.recipe)},
        )
        partial.replace(self._path(MODEL))

    def _train(
        self,
        name: str,
        trainer: Trainer,
        steps: int,
        report: Report,
        draw: Draw | None = None,
    ) -> None:
        """Run a trainer to its end, watched."""
        recipe = self.recipe
        store = OneFile(self._path(f"{name}.checkpoint"))
        observer = Observer(
            *(store.log, self.folder / SHEETS / name, recipe.watch, report),
            every=recipe.sheet.every,
            draw=draw,
        )
        train(
            trainer,
            steps,
            store,
            report,
            every=recipe.log.report_every,
            save_every=recipe.log.save_every,
            after=observer,
        )

    def _draw(self, parts: PocketParts, memory: str, path: Path) -> None:
        model = bundle(parts, name="pocket", details={})
        draw_sheet(model, memory_policy(memory, LENGTHS), self.recipe.sheet, path)

    def _begin(self) -> PocketParts:
        """Codec, text encoder and student that distillation begins with."""
        if self.recipe.start.student == "embedded":
            return load_parts()
        content = self._checkpoint("student")
        student = Student(BackboneConfig(**content["backbone"]), content["words"])
        _loaded(student, content["average"])
        return PocketParts(student.backbone, student.text, self._codec(), SamplerConfig())

    def _codec(self) -> PocketVae:
        if self.recipe.start.student == "embedded":
            return load_parts().vae
        vae = load_vae(made(self._path("vae.safetensors"), "vae"))
        return vae.requires_grad_(False).eval()

    def _load_teacher(self) -> Backbone:
        content = self._checkpoint("teacher")
        return _loaded(Backbone(BackboneConfig(**content["backbone"])), content["average"])

    def _load_clips(self, name: str) -> Clips:
        return Clips.load(made(self._path(f"{name}.safetensors"), "clips"))

    def _checkpoint(self, stage: str) -> dict[str, Any]:
        path = made(self._path(f"{stage}.checkpoint"), stage)
        return torch.load(path, map_location="cpu", weights_only=True)

    def _path(self, name: str) -> Path:
        return self.folder / name


def _loaded(module: Module, weights: Mapping[str, Tensor]) -> Module:
    """The module with these weights, without gradients."""
    module.load_state_dict(weights)
    return module.requires_grad_(False).eval()


def _averaged(copy: Backbone, average: RunningAverage) -> Backbone:
    copy.load_state_dict(average.weights)
    return copy
