"""The stages of a pocket recipe, as they are told of before they are done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afstream.config import BackboneConfig
from afstream.families.pocket.scene import WORLD_PX
from afstream.families.pocket.text import vocabulary
from afstream.families.pocket.vae import PocketVae
from afstream.families.presets import LENGTHS
from afstream.geometry import CHUNK_FRAMES, SPATIAL_STRIDE, Geometry
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.count import META
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import (
    TrainingReport,
    clip_bytes,
    dmd_parts,
    learner_parts,
    meta_backbone,
)
from afstream.training.machinery.optim import MATRIX_AXES
from afstream.training.pocket.student_stage import Student
from afstream.training.recipes.tables import MatchingTable, PocketRecipe
from afstream.training.runs.stages import Stage

POCKET_BACKBONE = BackboneConfig(
    dim=192, ffn_dim=576, freq_dim=128, text_dim=96, text_len=24, num_heads=6, num_layers=6, patch=2
)
SIDE = WORLD_PX // SPATIAL_STRIDE
# of a latent frame, (C, h, w)
SIZE = (POCKET_BACKBONE.in_dim, SIDE, SIDE)
WORLD = Geometry(width_px=WORLD_PX, height_px=WORLD_PX)
MODEL = "pocket.safetensors"


class ClipSet(NamedTuple):
    """Clips that are made together, for one purpose."""

    name: str
    num_clips: int
    frames: int
    switch_frames: tuple[int, ...]
    seed: int


def clip_sets(recipe: PocketRecipe) -> list[ClipSet]:
    """The clips that the recipe's stages learn from."""
    table = recipe.clips
    windows = ClipSet(
        "windows",
        table.windows,
        table.window_frames,
        table.window_switch_frames,
        table.window_seed,
    )
    if recipe.start.student == "embedded":
        return [windows]
    return [
        ClipSet("firsts", table.firsts, CHUNK_FRAMES, (0,), table.seed),
        ClipSet("clips", table.clips, table.frames, table.switch_frames, table.seed),
        windows,
    ]


def pocket_stages(recipe: PocketRecipe, folder: Path) -> tuple[Stage, ...]:
    """All stages in their order; those of the embedded model's own making are left out.

    Args:
        recipe: what is done.
        folder: where everything is written.
    """
    new = recipe.start.student == "new"
    begun = "student" if new else "the embedded model"
    stages = [
        _clips(recipe, folder, "vae" if new else begun),
        _teacher(recipe, folder, begun),
        _matching("short", recipe.short, folder, (begun, "teacher")),
        _matching("long", recipe.long, folder, ("short", "teacher")),
        Stage(
            name="export",
            what="the model file",
            reads=(recipe.export.stage,),
            made=(folder / MODEL,),
            remakes=True,
        ),
    ]
    if new:
        stages.insert(0, _vae(recipe, folder))
        stages.insert(2, _student(recipe, folder))
    return tuple(stages)


def _vae(recipe: PocketRecipe, folder: Path) -> Stage:
    with torch.device(META):
        vae = PocketVae()
    table = recipe.vae
    return Stage(
        name="vae",
        what=f"the codec, on windows of {table.window_frames} video frames",
        reads=(),
        made=(folder / "vae.safetensors",),
        steps=table.steps,
        batch=table.batch,
        rates=(("lr", table.learning_rate),),
        checkpoint=folder / "vae.checkpoint",
        memory=TrainingReport.of(
            lambda _: learner_parts("codec", vae, is_matrix=_has_axes, averaged=False)
        ),
    )


def _clips(recipe: PocketRecipe, folder: Path, reads: str) -> Stage:
    sets = clip_sets(recipe)
    return Stage(
        name="clips",
        what=", ".join(
            f"{each.num_clips} {each.name} of {each.frames} latent frames" for each in sets
        ),
        reads=(reads,),
        made=tuple(folder / f"{each.name}.safetensors" for each in sets),
        memory=TrainingReport.of(
            lambda _: (
                Part(name=each.name, bytes=clip_bytes(each.num_clips, (each.frames, *SIZE)))
                for each in sets
            )
        ),
    )


def _student(recipe: PocketRecipe, folder: Path) -> Stage:
    with torch.device(META):
        student = Student(POCKET_BACKBONE, vocabulary())
    table = recipe.student
    return Stage(
        name="student",
        what="causal initialisation: teacher forcing on first chunks, on clips, on its own past",
        reads=("clips",),
        made=(folder / "student.checkpoint",),
        steps=table.steps,
        batch=table.clip_batch,
        rates=(("lr", table.lr), ("hidden_lr", table.hidden_lr)),
        checkpoint=folder / "student.checkpoint",
        memory=TrainingReport.of(lambda _: learner_parts("student", student, is_matrix=_is_hidden)),
    )


def _teacher(recipe: PocketRecipe, folder: Path, begun: str) -> Stage:
    table = recipe.teacher
    backbone = meta_backbone(POCKET_BACKBONE)
    return Stage(
        name="teacher",
        what=f"the bidirectional teacher, on windows of {recipe.clips.window_frames} latent frames",
        reads=(begun, "clips"),
        made=(folder / "teacher.checkpoint",),
        steps=table.steps,
        batch=table.batch,
        rates=(("lr", table.lr), ("hidden_lr", table.hidden_lr)),
        checkpoint=folder / "teacher.checkpoint",
        memory=TrainingReport.of(
            lambda _: learner_parts("teacher", backbone, is_matrix=_is_hidden)
        ),
    )


def _matching(name: str, table: MatchingTable, folder: Path, reads: tuple[str, ...]) -> Stage:
    def count(processes: int) -> Iterator[Part]:
        del processes
        return dmd_parts(
            memory_policy(table.memory, LENGTHS),
            POCKET_BACKBONE,
            POCKET_BACKBONE,
            WORLD,
            rows=table.batch,
        )

    return Stage(
        name=name,
        what=table.what,
        reads=reads,
        made=(folder / f"{name}.checkpoint",),
        steps=table.iterations,
        batch=table.batch,
        rates=(("lr", table.lr), ("critic_lr", table.critic_lr)),
        checkpoint=folder / f"{name}.checkpoint",
        memory=TrainingReport.of(count),
    )


def _has_axes(name: str, weight: Tensor) -> bool:
    """What the codec's Muon takes."""
    del name
    return weight.ndim > 1


def _is_hidden(name: str, weight: Tensor) -> bool:
    """What `MixedOptimizer` gives to Muon."""
    return "blocks." in name and weight.ndim == MATRIX_AXES
