"""The stages of a Wan recipe, as they are told of before they are done."""

from __future__ import annotations

from pathlib import Path

import torch

from afstream.config import WAN_BACKBONES
from afstream.families.presets import LENGTHS
from afstream.geometry import PATCH
from afstream.kvcache.cache import Grid
from afstream.kvcache.memories import memory_policy
from afstream.training.recipes.tables import MatchingTable, WanRecipe
from afstream.training.runs import preflight
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


def footing(recipe: WanRecipe, *, rank: int) -> preflight.Footing:
    """How weights are stored in one of the recipe's processes."""
    sizes = recipe.sizes
    return preflight.Footing(
        trained=DTYPES[sizes.trained],
        frozen=DTYPES[sizes.frozen],
        rank=rank,
        processes=sizes.processes if sizes.shard else 1,
    )


def wan_grid(recipe: WanRecipe) -> Grid:
    """Tokens of a latent frame."""
    geometry = recipe.sizes.geometry
    return Grid(rows=geometry.latent_height // PATCH, columns=geometry.latent_width // PATCH)


def _ode(recipe: WanRecipe, folder: Path) -> Stage:
    table = recipe.ode
    student = preflight.on_meta(WAN_BACKBONES[recipe.sizes.student])
    stored = footing(recipe, rank=0)
    average = preflight.size_bytes(student.parameters(), stored.trained) // stored.processes
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
        memory=(
            *preflight.training_shares("student", student, stored),
            preflight.Share("student: moving average", average),
        ),
    )


def _matching(
    name: str, table: MatchingTable, recipe: WanRecipe, folder: Path, reads: tuple[str, ...]
) -> Stage:
    sizes = recipe.sizes
    shares = preflight.matching_shares(
        memory_policy(table.memory, LENGTHS),
        WAN_BACKBONES[sizes.student],
        WAN_BACKBONES[sizes.teacher],
        wan_grid(recipe),
        -(-table.batch // sizes.processes),
        footing(recipe, rank=recipe.lora.rank if name == "long" else 0),
    )
    return Stage(
        name=name,
        what=table.what,
        reads=reads,
        made=tuple(folder / part.format(name) for part in (STUDENT, CRITIC, AVERAGE)),
        steps=table.iterations,
        batch=table.batch,
        rates=(("lr", table.lr), ("critic_lr", table.critic_lr)),
        checkpoint=folder / name,
        memory=shares,
    )
