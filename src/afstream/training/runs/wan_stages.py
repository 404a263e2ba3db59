"""The stages of a Wan recipe, as they are told of before they are done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from afstream.config import WAN_BACKBONES
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import (
    Storage,
    TrainingReport,
    dmd_parts,
    learner_parts,
    meta_backbone,
)
from afstream.training.recipes.tables import MatchingTable, WanRecipe
from afstream.training.runs.stages import Stage

# what a stage leaves to the next one, and the average that ships; a LoRA where that was trained
STUDENT, CRITIC, AVERAGE = (
    "{}-student.safetensors",
    "{}-critic.safetensors",
    "{}-average.safetensors",
)
MODEL = "student.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def wan_stages(recipe: WanRecipe, folder: Path) -> tuple[Stage, ...]:
    """All stages in their order.

    Args:
        recipe: what is done.
        folder: where everything is written.
    """
    return (
        _ode(recipe, folder),
        _matching("short", recipe.short, recipe, folder, ("ode", recipe.start.teacher)),
        _matching("long", recipe.long, recipe, folder, ("short", recipe.start.teacher)),
        Stage(
            name="export",
            what="the student's file, for --student",
            reads=("long",),
            made=(folder / MODEL,),
            remakes=True,
        ),
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


def dmd_report(recipe: WanRecipe, table: MatchingTable, *, rank: int) -> TrainingReport:
    """What one process of a stage of distribution matching holds.

    Args:
        recipe: sizes and processes.
        table: of the stage.
        rank: of the adapters that learn; 0 trains the weights themselves.
    """
    sizes = recipe.sizes

    def count(processes: int) -> Iterator[Part]:
        return dmd_parts(
            memory_policy(table.memory, LENGTHS),
            WAN_BACKBONES[sizes.student],
            WAN_BACKBONES[sizes.teacher],
            sizes.geometry,
            rows=-(-table.batch // processes),
            storage=storage(recipe, rank=rank, processes=processes),
            input_frames=table.horizon_frames,
        )

    return TrainingReport.of(count, processes=sizes.processes)


def _ode(recipe: WanRecipe, folder: Path) -> Stage:
    table, sizes = recipe.ode, recipe.sizes
    student = meta_backbone(WAN_BACKBONES[sizes.student], DTYPES[sizes.trained])

    def count(processes: int) -> Iterator[Part]:
        stored = storage(recipe, rank=0, processes=processes)
        return learner_parts("student", student, storage=stored)

    return Stage(
        name="ode",
        what=f"causal initialisation: regression on {recipe.pairs.pairs} of the teacher's own"
        f" trajectories of {recipe.pairs.frames} latent frames",
        reads=(recipe.start.student, recipe.start.teacher),
        made=(folder / STUDENT.format("ode"),),
        steps=table.iterations,
        batch=table.batch,
        rates=(("lr", table.lr),),
        checkpoint=folder / "ode",
        memory=TrainingReport.of(count, processes=sizes.processes),
    )


def _matching(
    name: str, table: MatchingTable, recipe: WanRecipe, folder: Path, reads: tuple[str, ...]
) -> Stage:
    return Stage(
        name=name,
        what=table.what,
        reads=reads,
        made=tuple(folder / part.format(name) for part in (STUDENT, CRITIC, AVERAGE)),
        steps=table.iterations,
        batch=table.batch,
        rates=(("lr", table.lr), ("critic_lr", table.critic_lr)),
        checkpoint=folder / name,
        memory=dmd_report(recipe, table, rank=recipe.lora.rank if name == "long" else 0),
    )
