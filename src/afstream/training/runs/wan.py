"""The stages of a Wan recipe: ODE regression, short, long, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from afstream.checkpoints import merge_loras, read_lora, read_student
from afstream.checkpoints.files import save_tensors
from afstream.config import WAN_BACKBONES, SamplerConfig
from afstream.families.base import VideoModel
from afstream.families.wan.family import WAN
from afstream.families.wan.model import wan_model
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import (
    Storage,
    dmd_parts,
    learner_parts,
    meta_backbone,
)
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import Models
from afstream.training.ode.pairs import Pairs, make_pairs
from afstream.training.ode.trainer import OdeTrainer
from afstream.training.recipes.tables import WanRecipe
from afstream.training.runs.dmd_stage import CRITIC, EMA, STUDENT, dmd_stage
from afstream.training.runs.record import Record, read_record, tables
from afstream.training.runs.stages import RunContext, Stage
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.log import Report
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
    def planned(self) -> int:
        """See `RunContext`."""
        return self.recipe.sizes.processes

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


def wan_stages(recipe: WanRecipe, folder: Path, processes: Processes = ALONE) -> tuple[Stage, ...]:
    """All stages in their order."""
    context = WanContext(recipe=recipe, folder=folder, processes=processes)
    return (
        _ode(context),
        _dmd(context, "short", recipe.short, "ode"),
        _dmd(context, "long", recipe.long, "short"),
        _export(context),
    )


def storage(recipe: WanRecipe, *, rank: int, processes: int) -> Storage:
    """How weights are stored in one of a number of processes."""
    sizes = recipe.sizes
    return Storage(
        trained=DTYPES[sizes.trained],
        frozen=DTYPES[sizes.frozen],
        rank=rank,
        shards=processes if sizes.shard else 1,
    )


def dmd_memory(
    recipe: WanRecipe, config: DmdConfig, *, rank: int, processes: int
) -> Iterator[Part]:
    """What one of a number of processes of a stage of DMD holds, beside activations.

    `rank` is that of the adapters that learn; 0 trains the weights themselves.
    """
    return dmd_parts(
        memory_policy(config.memory, WAN.lengths),
        WAN_BACKBONES[recipe.sizes.student],
        WAN_BACKBONES[recipe.sizes.teacher],
        recipe.sizes.geometry,
        rows=-(-config.batch // processes),
        storage=storage(recipe, rank=rank, processes=processes),
        input_frames=config.horizon_frames,
    )


def _ode(context: WanContext) -> Stage:
    """Pairs of the teacher's trajectories, and the causal student's training on them."""
    recipe, processes = context.recipe, context.processes
    config, sizes, pairs = recipe.ode, recipe.sizes, recipe.pairs
    file = STUDENT.format("ode")

    def run(report: Report) -> None:
        prompts = context.prompts(config.seed)
        folder = context.folder / "pairs"
        _make_pairs(context, prompts, folder, report)
        start = Path(recipe.start.student)
        student = open_learner(start, None, processes, dtype=context.frozen)
        trainer = OdeTrainer(
            *(config, student, Pairs(folder), prompts),
            *(memory_policy(recipe.short.memory, WAN.lengths), SamplerConfig(), processes),
        )
        context.train("ode", trainer, config.iterations, report)
        path, alpha = context.folder / file, recipe.lora.alpha
        save_trained(path, trainer.ema.weights, alpha=alpha, processes=processes)

    def parts(count: int) -> Iterator[Part]:
        student = meta_backbone(WAN_BACKBONES[sizes.student], DTYPES[sizes.trained])
        stored = storage(recipe, rank=0, processes=count)
        return learner_parts("student", student, storage=stored)

    return Stage(
        context=context,
        name="ode",
        summary=f"causal initialisation: regression on {pairs.pairs} of the teacher's own"
        f" trajectories of {pairs.frames} latent frames",
        reads=(recipe.start.student, recipe.start.teacher),
        files=(file,),
        run=run,
        steps=config.iterations,
        batch=config.batch,
        rates={"lr": config.lr},
        memory=parts,
    )


def _make_pairs(context: WanContext, prompts: CachedPrompts, folder: Path, report: Report) -> None:
    """Make some of the files in each process, with a whole teacher of its own."""
    recipe, processes = context.recipe, context.processes
    config, geometry = recipe.pairs, recipe.sizes.geometry
    teacher = open_backbone(Path(recipe.start.teacher), None, processes.device, context.frozen)
    make_pairs(
        *(teacher, prompts, folder, config, SamplerConfig()),
        (teacher.config.in_dim, geometry.latent_height, geometry.latent_width),
        files=range(processes.rank, config.num_files, processes.count),
        report=report if processes.is_first else lambda _: None,
    )
    processes.wait()


def _dmd(context: WanContext, name: str, config: DmdConfig, before: str) -> Stage:
    """DMD of a Wan student: `short` trains all weights, `long` a LoRA on top of `short`."""
    recipe, is_long = context.recipe, name == "long"
    rank = recipe.lora.rank if is_long else 0

    def open_both() -> tuple[Models, VideoModel]:
        networks = NetworksConfig(
            student=Path(recipe.start.student),
            start=context.made(STUDENT.format(before), before),
            critic_start=context.made(CRITIC.format(before), before) if is_long else None,
            teacher=Path(recipe.start.teacher),
            rank=rank,
            alpha=recipe.lora.alpha,
            dtype=context.frozen,
        )
        prompts = context.prompts(config.seed)
        models, vae = open_models(networks, prompts, context.processes)
        return models, wan_model("student", WAN, models.student, prompts, vae, {})

    return dmd_stage(
        *(context, name, config),
        reads=(before, recipe.start.teacher),
        open_models=open_both,
        policy=memory_policy(config.memory, WAN.lengths),
        geometry=recipe.sizes.geometry,
        memory=lambda count: dmd_memory(recipe, config, rank=rank, processes=count),
        alpha=recipe.lora.alpha,
    )


def _export(context: WanContext) -> Stage:
    """The moving average of `long` as one student's file; a LoRA is merged."""
    recipe, lora = context.recipe, context.recipe.lora

    def run(report: Report) -> None:
        del report
        if not context.processes.is_first:
            return
        ema = context.made(EMA.format("long"), "long")
        if lora.rank:
            base = read_student(context.made(STUDENT.format("short"), "short")).weights
            weights = merge_loras(base, [read_lora(ema, alpha=lora.alpha)])
        else:
            weights = read_student(ema).weights
        record = read_record(context.folder) or Record(recipe=tables(recipe))
        save_tensors(context.folder / MODEL, weights, {"recipe": json.dumps(record.ran())})

    return Stage(
        context=context,
        name="export",
        summary="the student's file, for --student",
        reads=("long",),
        files=(MODEL,),
        run=run,
        always=True,
    )
