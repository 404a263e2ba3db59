"""A recipe in a folder: opened, refused where other work stands, recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from afstream.errors import ConfigError
from afstream.training.recipes.tables import PocketRecipe, Recipe
from afstream.training.runs.pocket import pocket_stages
from afstream.training.runs.stages import Stage
from afstream.training.runs.wan import wan_stages
from afstream.training.trainer.distributed import ALONE, Processes, joined

# the recipe, beside what was made by it
RECORD = "recipe.json"
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recipe in a folder, and its stages in their order."""

    recipe: Recipe
    folder: Path
    stages: tuple[Stage, ...]


def together(recipe: Recipe) -> AbstractContextManager[Processes]:
    """The processes that share a run; the pocket recipe runs in one process."""
    return nullcontext(ALONE) if isinstance(recipe, PocketRecipe) else joined()


def open_run(recipe: Recipe, folder: Path, processes: Processes = ALONE) -> Run:
    """A recipe in a folder; nothing is written yet."""
    if isinstance(recipe, PocketRecipe):
        stages = pocket_stages(recipe, folder)
    else:
        stages = wan_stages(recipe, folder, processes)
    return Run(recipe=recipe, folder=folder, stages=stages)


def choose_stages(run: Run, name: str) -> Sequence[Stage]:
    """One stage by its name, or `all` of them.

    Raises:
        ConfigError: the recipe has no such stage.
    """
    chosen = [stage for stage in run.stages if name in (stage.name, ALL)]
    if not chosen:
        known = ", ".join(stage.name for stage in run.stages)
        raise ConfigError(
            f"stage is {name!r}; this recipe has {known}, or {ALL} of them in this order"
        )
    return chosen


def claim(run: Run, *, resume: bool, processes: Processes = ALONE) -> None:
    """Make the run's folder, and record the recipe there; the first process looks and writes.

    Raises:
        ConfigError: there is work already and it is not to be resumed, or it is of another model.
    """
    fault = processes.agree(_fault(run, resume=resume) if processes.is_first else "")
    if fault:
        raise ConfigError(fault)
    if processes.is_first:
        run.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(run.recipe.model_dump(), indent=2, ensure_ascii=False)
        (run.folder / RECORD).write_text(text + "\n", encoding="utf-8")
    processes.wait()


def _fault(run: Run, *, resume: bool) -> str:
    """Why a folder cannot be used; empty if it can."""
    record = run.folder / RECORD
    if not resume and (record.exists() or any(stage.is_begun for stage in run.stages)):
        return (
            f"{run.folder} holds a run already; go on with it by --resume, or choose another"
            " folder with --out"
        )
    if record.is_file():
        model = json.loads(record.read_text(encoding="utf-8")).get("model")
        if model != run.recipe.model:
            return (
                f"{run.folder} holds a run of a {model} recipe, and this is a {run.recipe.model}"
                " recipe; choose another folder with --out"
            )
    return ""
