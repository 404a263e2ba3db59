"""A recipe brought to a folder: opened, refused where other work stands, recorded."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from afstream.errors import ConfigError
from afstream.training.machinery.parallel import ALONE, Processes, joined
from afstream.training.recipes.tables import PocketRecipe, Recipe
from afstream.training.runs.pocket import PocketRun
from afstream.training.runs.stages import Run, Stage
from afstream.training.runs.wan import WanRun

# what was asked for, beside what came of it
RECORD = "recipe.json"
ALL = "all"


@contextmanager
def together(recipe: Recipe) -> Generator[Processes, None, None]:
    """The processes that share a run; the pocket recipe is for one alone."""
    if isinstance(recipe, PocketRecipe):
        yield ALONE
    else:
        with joined() as processes:
            yield processes


def open_run(recipe: Recipe, folder: Path, processes: Processes = ALONE) -> Run:
    """A recipe in a folder; nothing is written yet."""
    if isinstance(recipe, PocketRecipe):
        return PocketRun(recipe, folder)
    return WanRun(recipe, folder, processes)


def choose_stages(run: Run, name: str) -> Sequence[Stage]:
    """One stage by its name, or `all` of them.

    Raises:
        ConfigError: the recipe has no such stage.
    """
    if name == ALL:
        return run.stages
    for stage in run.stages:
        if stage.name == name:
            return (stage,)
    known = ", ".join(stage.name for stage in run.stages)
    raise ConfigError(f"stage is {name!r}; this recipe has {known}, or {ALL} of them in this order")


def claim(run: Run, *, resume: bool, processes: Processes = ALONE) -> None:
    """Make the folder, and write down what is going to be done there.

    Args:
        run: whose folder.
        resume: whether to go on with what is there.
        processes: that share the run; the first one looks.

    Raises:
        ConfigError: there is work already and it is not to be resumed, or it is of another model.
    """
    fault = processes.agree(_fault(run, resume=resume) if processes.is_first else "")
    if fault:
        raise ConfigError(fault)
    if processes.is_first:
        run.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(run.recipe), indent=2, ensure_ascii=False)
        (run.folder / RECORD).write_text(text + "\n", encoding="utf-8")
    processes.wait()


def _fault(run: Run, *, resume: bool) -> str:
    """Why a folder cannot be used; empty if it can."""
    record = run.folder / RECORD
    held = [path for stage in run.stages for path in stage.files if path.exists()]
    if not resume and (held or record.exists()):
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
