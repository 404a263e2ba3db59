"""What a stage is: told of beforehand, done, taken up again. And what it is watched by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from afstream.chunk import Chunk
from afstream.config import MemoryPolicy
from afstream.distill.health import Health, WatchConfig
from afstream.distill.loop import Report
from afstream.distill.preflight import Share
from afstream.distill.recipes.tables import Recipe, SheetTable
from afstream.errors import CheckpointError
from afstream.model.bundle import VideoModel
from afstream.sheet import ContactSheet
from afstream.stream import Stream

# the folder of contact sheets in a run's folder
SHEETS = "sheets"

Draw = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: as `--stage` takes it.
        what: it does, in a few words.
        reads: what it begins with.
        made: the files that it ends with.
        steps: of its optimizer, 0 without one.
        batch: samples of a step.
        rates: peak learning rates by name.
        checkpoint: where it goes on from; None for a stage that is done at once.
        remakes: whether it runs even if its files are there.
        memory: what it holds, per process, activations aside.
    """

    name: str
    what: str
    reads: tuple[str, ...]
    made: tuple[Path, ...]
    steps: int = 0
    batch: int = 0
    rates: tuple[tuple[str, float], ...] = ()
    checkpoint: Path | None = None
    remakes: bool = False
    memory: tuple[Share, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """What it writes."""
        return (*self.made, self.checkpoint) if self.checkpoint else self.made

    @property
    def saved_step(self) -> int:
        """The step of its checkpoint, 0 without one."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return 0
        content = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return content["step"]

    @property
    def is_done(self) -> bool:
        """Whether running it would change nothing."""
        made = all(path.exists() for path in self.made)
        return made and self.saved_step >= self.steps and not self.remakes


class Run(Protocol):
    """A recipe in a folder.

    Attributes:
        folder: where everything is written.
        stages: in their order.
    """

    folder: Path
    stages: tuple[Stage, ...]

    @property
    def recipe(self) -> Recipe:
        """What is done."""
        ...

    def do(self, stage: Stage, report: Report) -> None:
        """Do a stage from where it stopped to its end.

        Raises:
            CheckpointError: a stage before it has not been done.
            TrainingError: it cannot go on.
        """
        ...


class Observer:
    """Looks after each step of a stage: its health, and now and then a sheet of samples.

    Args:
        stage: its name.
        folder: of the run.
        watch: when to warn.
        every: steps between two sheets, 0 for none.
        draw: draws one into a file; None where a stage makes no videos.
        report: told of warnings and sheets; the stage's log as well.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        watch: WatchConfig,
        report: Report,
        *,
        every: int = 0,
        draw: Draw | None = None,
    ) -> None:
        self.health = Health(watch)
        self._stage, self._folder, self._report = stage, folder, report
        self._every, self._draw = every, draw

    def __call__(self, step: int, told: Mapping[str, float]) -> None:
        """See `afstream.distill.loop.After`."""
        for text in self.health.see(step, told):
            self._tell({"step": step, "warning": text})
        if self._draw and self._every and step % self._every == 0:
            path = self._folder / SHEETS / f"{self._stage}-{step:06d}.png"
            self._draw(path)
            self._tell({"step": step, "sheet": str(path)})

    def _tell(self, entry: dict[str, object]) -> None:
        with (self._folder / f"{self._stage}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._report(entry)


def draw_sheet(model: VideoModel, policy: MemoryPolicy, table: SheetTable, path: Path) -> None:
    """Play the table's timeline with a model and draw its contact sheet."""
    stream = Stream(model, policy, seed=table.seed)
    sheet = ContactSheet(stream.size)
    for chunk in stream.play(table.parsed()):
        _add(sheet, chunk)
    sheet.save(path)


def _add(sheet: ContactSheet, chunk: Chunk) -> None:
    sheet.add(chunk.frames, segment=chunk.segment, prompt=chunk.prompt, start_s=chunk.start_s)


def made(path: Path, stage: str) -> Path:
    """A file that an earlier stage has made.

    Raises:
        CheckpointError: it has not.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not there yet; run --stage {stage} first")
    return path
