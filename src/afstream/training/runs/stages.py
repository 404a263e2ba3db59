"""What a stage is: told of beforehand, done, taken up again. And what it is watched by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from afstream.engine.chunk import Chunk
from afstream.errors import CheckpointError
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.training import TrainingReport
from afstream.spec import StreamConfig
from afstream.stream import Stream
from afstream.training.machinery.checkpoints import CheckpointFolders
from afstream.training.machinery.health import Health, WatchConfig
from afstream.training.machinery.loop import Report
from afstream.training.machinery.parallel import ALONE, Processes
from afstream.training.recipes.tables import Recipe, SheetTable
from afstream.video.sheet import ContactSheet

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
        checkpoint: the file or folder that it goes on from; None for a stage that is done at once.
        remakes: whether it runs even if its files are there.
        memory: what one process holds, beside activations.
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
    memory: TrainingReport | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What it writes."""
        return (*self.made, self.checkpoint) if self.checkpoint else self.made

    @property
    def saved_step(self) -> int:
        """The step of its checkpoint, 0 without one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        if self.checkpoint.is_dir():
            return CheckpointFolders(self.checkpoint).last_step
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
        log: the stage's log, which warnings and sheets are added to.
        sheets: prefix of the sheets' paths.
        watch: when to warn.
        report: told of warnings and sheets.
        every: steps between two sheets, 0 for none.
        draw: draws one into a file; None where a stage makes no videos.
        processes: all of them watch and draw, and the first one tells.
    """

    def __init__(
        self,
        log: Path,
        sheets: Path,
        watch: WatchConfig,
        report: Report,
        *,
        every: int = 0,
        draw: Draw | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.health = Health(watch)
        self._log, self._sheets, self._report = log, sheets, report
        self._every, self._draw = every, draw
        self._processes = processes

    def __call__(self, step: int, told: Mapping[str, float]) -> None:
        """See `afstream.training.machinery.loop.After`."""
        for text in self.health.see(step, told):
            self._tell({"step": step, "warning": text})
        if self._draw and self._every and step % self._every == 0:
            path = self._sheets.with_name(f"{self._sheets.name}-{step:06d}.png")
            self._draw(path)
            self._tell({"step": step, "sheet": str(path)})

    def _tell(self, entry: dict[str, object]) -> None:
        if not self._processes.is_first:
            return
        with self._log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._report(entry)


def draw_sheet(
    model: VideoModel,
    policy: MemoryPolicy,
    table: SheetTable,
    path: Path | None,
    *,
    size: Geometry | None = None,
) -> None:
    """Play the table's timeline with a model and draw its contact sheet.

    Args:
        model: whose.
        policy: what its stream remembers.
        table: what is played.
        path: of the sheet; None plays along and draws nothing.
        size: of the video; the model's own by default.
    """
    # weights that are spread cannot be captured in graphs
    pixels = (size.width_px, size.height_px) if size else None
    config = StreamConfig(memory=policy, seed=table.seed, size=pixels, graphs=False, ahead=False)
    stream = Stream(model, config)
    sheet = ContactSheet(stream.size)
    for chunk in stream.play(table.parsed()):
        _add(sheet, chunk)
    if path:
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
