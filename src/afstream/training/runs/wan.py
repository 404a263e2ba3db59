"""The stages of a Wan recipe: ODE regression, short, long, export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from afstream.checkpoints import merge_loras, read_lora, read_student
from afstream.config import WAN_BACKBONES, SamplerConfig
from afstream.families.wan.model import wan_model
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import (
    Storage,
    TrainingReport,
    dmd_parts,
    learner_parts,
    meta_backbone,
)
from afstream.model.bundle import VideoModel
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import Models
from afstream.training.ode.pairs import Pairs, make_pairs
from afstream.training.ode.trainer import OdeTrainer
from afstream.training.recipes.tables import WanRecipe
from afstream.training.runs.dmd_stage import CRITIC, EMA, STUDENT, DmdStage
from afstream.training.runs.stages import RunContext, Stage, StagePlan
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.files import save_tensors
from afstream.training.trainer.loop import Report
from afstream.training.trainer.lora import save_trained
from afstream.training.wan.embeddings import CachedPrompts
from afstream.training.wan.networks import (
    NetworksConfig,
    open_backbone,
    open_learner,
    open_models,
    open_prompts,
)

MODEL = "student.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class WanContext(RunContext):
    """A Wan recipe in a folder."""

    recipe: WanRecipe

    @property
    def frozen(self) -> torch.dtype:
        """Dtype of what does not learn."""
        return DTYPES[self.recipe.sizes.frozen]

    def prompts(self, seed: int) -> CachedPrompts:
        """The prompts' embeddings; those that are new are encoded first."""
        recipe = self.recipe
        return open_prompts(
            Path(recipe.start.student),
            Path(recipe.start.prompts),
            self.folder / "embeddings",
            processes=self.processes,
            negative=recipe.start.negative_prompt,
            dtype=self.frozen,
            seed=seed,
            others=[cue.prompt for cue in recipe.sheet.parsed().cues],
        )

    def networks(
        self, *, rank: int, start: Path | None = None, critic_start: Path | None = None
    ) -> NetworksConfig:
        """Settings of the networks that a stage opens."""
        recipe = self.recipe
        return NetworksConfig(
            student=Path(recipe.start.student),
            start=start,
            critic_start=critic_start,
            teacher=Path(recipe.start.teacher),
            rank=rank,
            alpha=recipe.lora.alpha,
            dtype=self.frozen,
        )


def wan_stages(
    recipe: WanRecipe, folder: Path, processes: Processes = ALONE
) -> tuple[Stage[WanContext], ...]:
    """All stages in their order."""
    context = WanContext(recipe=recipe, folder=folder, processes=processes)
    return (
        OdeStage(context),
        _dmd_stage(context, "short", recipe.short, "ode"),
        _dmd_stage(context, "long", recipe.long, "short"),
        ExportStage(context),
    )


def _dmd_stage(context: WanContext, name: str, config: DmdConfig, before: str) -> WanDmdStage:
    return WanDmdStage(
        *(context, name, config),
        reads=(before, context.recipe.start.teacher),
        geometry=context.recipe.sizes.geometry,
        alpha=context.recipe.lora.alpha,
    )


def storage(recipe: WanRecipe, *, rank: int, processes: int) -> Storage:
    """How weights are stored in one of so many processes."""
    sizes = recipe.sizes
    return Storage(
        trained=DTYPES[sizes.trained],
        frozen=DTYPES[sizes.frozen],
        rank=rank,
        shards=processes if sizes.shard else 1,
    )


def dmd_report(recipe: WanRecipe, config: DmdConfig, *, rank: int) -> TrainingReport:
    """What one process of a stage of DMD holds, beside activations.

    Args:
        recipe: sizes and processes.
        config: table of the stage.
        rank: of the adapters that learn; 0 trains the weights themselves.
    """
    sizes = recipe.sizes

    def count(processes: int) -> Iterator[Part]:
        return dmd_parts(
            config.policy,
            WAN_BACKBONES[sizes.student],
            WAN_BACKBONES[sizes.teacher],
            sizes.geometry,
            rows=-(-config.batch // processes),
            storage=storage(recipe, rank=rank, processes=processes),
            input_frames=config.horizon_frames,
        )

    return TrainingReport.of(count, processes=sizes.processes)


class OdeStage(Stage[WanContext]):
    """Makes pairs of the teacher's trajectories, and trains the causal student on them."""

    def __init__(self, context: WanContext) -> None:
        table = context.recipe.ode
        outputs = [STUDENT.format("ode")]
        super().__init__(context, "ode", outputs, steps=table.iterations, batch=table.batch)

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        recipe = self.context.recipe
        sizes, pairs = recipe.sizes, recipe.pairs
        student = meta_backbone(WAN_BACKBONES[sizes.student], DTYPES[sizes.trained])

        def count(processes: int) -> Iterator[Part]:
            stored = storage(recipe, rank=0, processes=processes)
            return learner_parts("student", student, storage=stored)

        return StagePlan(
            summary=f"causal initialisation: regression on {pairs.pairs} of the teacher's own"
            f" trajectories of {pairs.frames} latent frames",
            reads=(recipe.start.student, recipe.start.teacher),
            rates=(("lr", recipe.ode.lr),),
            memory=TrainingReport.of(count, processes=sizes.processes),
        )

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        context = self.context
        recipe, processes = context.recipe, context.processes
        prompts = context.prompts(recipe.ode.seed)
        pairs = context.folder / "pairs"
        self._make_pairs(prompts, pairs, report)
        config = context.networks(rank=0)
        student = open_learner(config, config.student, None, processes)
        policy, sampler = recipe.short.policy, SamplerConfig()
        trainer = OdeTrainer(recipe.ode, student, Pairs(pairs), prompts, policy, sampler, processes)
        self.train(trainer, report)
        save_trained(
            self.outputs[0],
            trainer.ema.weights,
            alpha=recipe.lora.alpha,
            processes=processes,
        )

    def _make_pairs(self, prompts: CachedPrompts, folder: Path, report: Report) -> None:
        """Make some of the files in each process, with a whole teacher of its own."""
        recipe, processes = self.context.recipe, self.context.processes
        config, geometry = recipe.pairs, recipe.sizes.geometry
        files = range(processes.rank, config.num_files, processes.count)
        total = sum(len(config.numbers(file)) for file in files)
        teacher = open_backbone(
            Path(recipe.start.teacher), None, processes.device, self.context.frozen
        )
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if processes.is_first:
                report({"kind": "pairs", "done": done, "of": total})

        size = (teacher.config.in_dim, geometry.latent_height, geometry.latent_width)
        make_pairs(
            *(teacher, prompts, folder, config, SamplerConfig(), size), files=files, report=tell
        )
        processes.wait()


class WanDmdStage(DmdStage[WanContext]):
    """DMD of a Wan student: `short` trains all weights, `long` a LoRA on top of `short`."""

    @property
    def _is_long(self) -> bool:
        return self.name == "long"

    @property
    def _rank(self) -> int:
        return self.context.recipe.lora.rank if self._is_long else 0

    def count_memory(self) -> TrainingReport:
        """See `DmdStage.count_memory`."""
        return dmd_report(self.context.recipe, self.config, rank=self._rank)

    def open_models(self) -> tuple[Models, VideoModel]:
        """See `DmdStage.open_models`."""
        context, before = self.context, "short" if self._is_long else "ode"
        networks = context.networks(
            rank=self._rank,
            start=context.made(STUDENT.format(before), before),
            critic_start=context.made(CRITIC.format(before), before) if self._is_long else None,
        )
        prompts = context.prompts(self.config.seed)
        models, vae = open_models(networks, prompts, context.processes)
        return models, wan_model("student", models.student, prompts, vae, {})


class ExportStage(Stage[WanContext]):
    """Writes the moving average of `long` as one student's file; a LoRA is merged."""

    always = True

    def __init__(self, context: WanContext) -> None:
        super().__init__(context, "export", [MODEL])

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        return StagePlan(summary="the student's file, for --student", reads=("long",))

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        context, lora = self.context, self.context.recipe.lora
        if not context.processes.is_first:
            return
        ema = context.made(EMA.format("long"), "long")
        if lora.rank:
            base = read_student(context.made(STUDENT.format("short"), "short")).weights
            weights = merge_loras(base, [read_lora(ema, alpha=lora.alpha)])
        else:
            weights = read_student(ema).weights
        save_tensors(self.outputs[0], weights)
