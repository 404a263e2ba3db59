"""A recipe in a folder: opened, refused where other work stands, recorded."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from afstream.atomic import sweep
from afstream.errors import AfstreamError, ConfigError, OutputError
from afstream.lock import hold
from afstream.training.recipes.tables import PocketRecipe, Recipe
from afstream.training.runs.pocket import pocket_stages
from afstream.training.runs.record import (
    RECORD,
    Change,
    Record,
    differences,
    read_record,
    refusal,
    tables,
)
from afstream.training.runs.stages import Stage
from afstream.training.runs.wan import wan_stages
from afstream.training.trainer.distributed import ALONE, Processes, joined
from afstream.validation import show_name

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


@contextmanager
def claim(
    run: Run, *, resume: bool, accept: bool = False, processes: Processes = ALONE
) -> Generator[None, None, None]:
    """Make the run's folder, hold it against other runs, and record the recipe there.

    All processes call it; the first one looks and writes. With `accept`, a recipe that was changed
    since the run began is taken up, and recorded with the steps that each stage had done.

    Raises:
        ConfigError: there is work already and it is not to be resumed, or it is of another recipe.
        OutputError: another run holds the folder, or it cannot be written.
    """
    with ExitStack() as held:
        fault: AfstreamError | None = None
        if processes.is_first:
            try:
                _make(run.folder)
                held.enter_context(hold(run.folder, what="folder with --out"))
                record = _new_record(run, resume=resume, accept=accept)
                _sweep(run.folder)
                record.write(run.folder)
            except AfstreamError as error:
                fault = error
        if refused := processes.agree(fault):
            raise refused
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(folder, error) from error


def _sweep(folder: Path) -> None:
    """Remove what killed runs were writing; nobody else writes here now."""
    for each in (folder, *filter(Path.is_dir, folder.iterdir())):
        sweep(each)
    for left in folder.glob("*/step-*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def _new_record(run: Run, *, resume: bool, accept: bool) -> Record:
    """What is to be recorded of a run.

    Raises:
        ConfigError: see `claim`.
    """
    folder, recipe = run.folder, tables(run.recipe)
    if not resume and ((folder / RECORD).exists() or any(one.is_begun for one in run.stages)):
        raise ConfigError(
            f"{folder} holds a run already; go on with it by --resume, or choose another folder"
            " with --out"
        )
    before = read_record(folder)
    if before is None:
        return Record(recipe=recipe)
    if (model := before.recipe.get("model")) != run.recipe.model:
        raise ConfigError(
            f"{folder} holds a run of a {show_name(model)} recipe, and this is a"
            f" {run.recipe.model} recipe; choose another folder with --out"
        )
    differing = differences(before.recipe, recipe)
    if differing and not accept:
        raise ConfigError(refusal(folder, differing))
    begun = {stage.name: stage for stage in run.stages if stage.is_begun and not stage.always}
    # a stage that was removed begins anew, and one that was finished may have more steps to do
    kept = [
        one.model_copy(update={"finished": one.finished and begun[one.stage].is_done})
        for one in before.changes
        if one.stage in begun
    ]
    others = {stage.name for stage in run.stages}
    for name, stage in begun.items():
        # the tables of other stages are nothing to this one
        own = {
            key: pair
            for key, pair in differing.items()
            if key.partition(".")[0] not in others - {name}
        }
        if own:
            at = {"stage": name, "step": stage.checked_step, "finished": stage.is_done}
            kept.append(Change.model_validate({**at, "changes": own}))
    return Record(recipe=recipe, changes=kept)
