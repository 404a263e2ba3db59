"""A training stage: what it is going to do, doing it, resuming it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from afstream.errors import CheckpointError
from afstream.memory_plan.training import TrainingReport
from afstream.training.recipes.tables import Recipe
from afstream.training.runs.watch import Draw, Observer
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.loop import Report, Trainer, train

# the folder of contact sheets in a run's folder
SHEETS = "sheets"

C = TypeVar("C", bound="RunContext")


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the stages of a run share.

    Attributes:
        recipe: the recipe.
        folder: where everything is written; all processes must see the same.
        processes: that share the run.
    """

    recipe: Recipe
    folder: Path
    processes: Processes = ALONE

    def made(self, name: str, stage: str) -> Path:
        """A file that an earlier stage has made.

        Raises:
            CheckpointError: it has not.
        """
        path = self.folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is not there yet; run --stage {stage} first")
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What a stage is going to do.

    Attributes:
        summary: what it does, in a few words.
        reads: what it begins with.
        rates: peak learning rates by name.
        memory: what one process holds, beside activations; None where nothing is counted.
    """

    summary: str
    reads: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    memory: TrainingReport | None = None


class Stage(ABC, Generic[C]):
    """One stage of a run.

    Attributes:
        name: as `--stage` takes it.
        outputs: files that it ends with.
        steps: optimizer steps, 0 without an optimizer.
        batch: samples of a step.
        always: whether it runs even if its files are there.

    Args:
        context: recipe, folder and processes.
        name: see above.
        outputs: names of its files in the run's folder.
        steps: see above.
        batch: see above.
    """

    always = False

    def __init__(
        self, context: C, name: str, outputs: Sequence[str], *, steps: int = 0, batch: int = 0
    ) -> None:
        self.name = name
        self.outputs = tuple(context.folder / output for output in outputs)
        self.steps = steps
        self.batch = batch
        self.context = context
        self._folder = context.folder / name

    @abstractmethod
    def describe(self) -> StagePlan:
        """What it is going to do; counts its memory, and touches no file."""

    @abstractmethod
    def run(self, report: Report) -> None:
        """Go from where the stage stopped to its end; all processes call it.

        Raises:
            CheckpointError: a stage before it has not been done.
            TrainingError: it cannot go on.
        """

    @property
    def saved_step(self) -> int:
        """Step of its last checkpoint, 0 without one."""
        return CheckpointStore(self._folder).last_step if self.steps else 0

    @property
    def is_begun(self) -> bool:
        """Whether it has written anything yet."""
        return self._folder.exists() or any(path.exists() for path in self.outputs)

    @property
    def is_done(self) -> bool:
        """Whether running it would change nothing."""
        made = all(path.exists() for path in self.outputs)
        return made and self.saved_step >= self.steps and not self.always

    def train(self, trainer: Trainer, report: Report, draw: Draw | None = None) -> None:
        """Run a trainer to its last step, watched.

        Args:
            trainer: what learns.
            report: see `afstream.training.trainer.loop.train`.
            draw: draws a contact sheet into a file; None where the stage makes no videos.
        """
        recipe, processes = self.context.recipe, self.context.processes
        store = CheckpointStore(self._folder, processes)
        observer = Observer(
            *(store.log, self.context.folder / SHEETS / self.name, recipe.watch, report),
            every=recipe.sheet.every,
            draw=draw,
            processes=processes,
        )
        train(
            *(trainer, self.steps, store, report),
            every=recipe.log.report_every,
            save_every=recipe.log.save_every,
            after=observer,
        )
