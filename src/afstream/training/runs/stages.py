"""A training stage: what it is going to do, doing it watched, resuming it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from afstream.checkpoints.safetensors import damage
from afstream.errors import CheckpointError
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.report import Part
from afstream.memory_plan.training import TrainingReport
from afstream.spec import StreamConfig
from afstream.stream import Stream
from afstream.training.recipes.tables import Recipe
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.health import Health, WatchConfig
from afstream.training.trainer.log import Report
from afstream.training.trainer.loop import Trainer, train
from afstream.training.trainer.optim import Ema
from afstream.video.sheet import ContactSheet

UNIT = 1000
# the folder of contact sheets in a run's folder
SHEETS = "sheets"

Draw = Callable[[Path], None]


class Observer:
    """Called after each step of a stage: checks its metrics, and draws sheets of samples.

    Warnings and sheets go into the store's log and to the report, in the first process; sheets lie
    beside the stage's folder. All processes draw, every so many steps; 0 is never.
    """

    def __init__(
        self,
        store: CheckpointStore,
        report: Report,
        watch: WatchConfig,
        *,
        every: int = 0,
        draw: Draw | None = None,
    ) -> None:
        self.health = Health(watch)
        self._store, self._report = store, report
        self._every, self._draw = every, draw

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `afstream.training.trainer.loop.AfterStep`."""
        for text in self.health.see(step, metrics):
            self._store.log.tell({"step": step, "warning": text}, self._report)
        if self._draw and self._every and step % self._every == 0:
            stage = self._store.folder
            path = stage.parent / SHEETS / f"{stage.name}-{step:06d}.png"
            self._draw(path)
            self._store.log.tell({"step": step, "sheet": str(path)}, self._report)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the stages of a run share; all processes must see the same folder."""

    recipe: Recipe
    folder: Path
    processes: Processes = ALONE

    @property
    def planned(self) -> int:
        """Processes that the recipe is meant for."""
        return 1

    def made(self, name: str, stage: str) -> Path:
        """A file that an earlier stage has made.

        Raises:
            CheckpointError: it has not, or the file is not as it was written.
        """
        path = self.folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is not there yet; run --stage {stage} first")
        if fault := damage(path):
            raise CheckpointError(_spoilt(path, stage, fault))
        return path

    @contextmanager
    def reading(self, name: str, stage: str) -> Generator[Path, None, None]:
        """A file that an earlier stage has made; see `made`.

        Raises:
            CheckpointError: also where what is done with it shows that it is something else.
        """
        path = self.made(name, stage)
        try:
            yield path
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).partition("\n")[0]
            fault = f"it holds something else ({reason})"
            raise CheckpointError(_spoilt(path, stage, fault)) from error

    def train(
        self, stage: str, trainer: Trainer, steps: int, report: Report, draw: Draw | None = None
    ) -> None:
        """Run a stage's trainer to its last step, watched; `draw` draws a contact sheet."""
        store, recipe = CheckpointStore(self.folder / stage, self.processes), self.recipe
        train(
            *(trainer, steps, store, report),
            every=recipe.log.report_every,
            save_every=recipe.log.save_every,
            after=Observer(store, report, recipe.watch, every=recipe.sheet.every, draw=draw),
        )

    def sheets(self, ema: Ema, model: VideoModel, policy: MemoryPolicy, size: Geometry) -> Draw:
        """Draws contact sheets of the recipe's timeline, played with the averaged weights."""
        sheet, pixels = self.recipe.sheet, (size.width_px, size.height_px)

        def draw(path: Path) -> None:
            # weights that are spread over processes cannot be captured in graphs
            config = StreamConfig(
                memory=policy, seed=sheet.seed, size=pixels, graphs=False, ahead=False
            )
            drawn = ContactSheet(pixels)
            with ema.in_place():
                for made in Stream(model, config).play(sheet.parsed()):
                    drawn.add(
                        made.frames, segment=made.segment, prompt=made.prompt, start_s=made.start_s
                    )
            if self.processes.is_first:
                drawn.save(path)

        return draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        context: recipe, folder and processes.
        name: as `--stage` takes it; checkpoints and log are in a folder of this name.
        summary: what it does, in a few words.
        reads: what it begins with.
        files: names of the files that it ends with.
        run: goes from where the stage stopped to its end; all processes call it. Raises
            `CheckpointError` where a stage before it has not been done, and `TrainingError` where
            it cannot go on.
        steps: optimizer steps, 0 without an optimizer.
        batch: samples of a step.
        rates: peak learning rates by name.
        memory: what one of a number of processes holds, beside activations; None where nothing
            is counted.
        always: whether it runs even if its files are there.
    """

    context: RunContext
    name: str
    summary: str
    reads: tuple[str, ...] = ()
    files: tuple[str, ...]
    run: Callable[[Report], None]
    steps: int = 0
    batch: int = 0
    rates: Mapping[str, float] | None = None
    memory: Callable[[int], Iterable[Part]] | None = None
    always: bool = False

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Paths of the files that it ends with."""
        return tuple(self.context.folder / name for name in self.files)

    @property
    def saved_step(self) -> int:
        """Step of its last checkpoint, 0 without one."""
        return CheckpointStore(self.context.folder / self.name).last_step if self.steps else 0

    @property
    def checked_step(self) -> int:
        """Step of the checkpoint that it would go on from, all of whose content was checked."""
        return CheckpointStore(self.context.folder / self.name).checked_step if self.steps else 0

    @property
    def is_begun(self) -> bool:
        """Whether there are files of it already."""
        paths = (self.context.folder / self.name, *self.outputs)
        return any(path.exists() for path in paths)

    @property
    def is_done(self) -> bool:
        """Whether running it would change nothing."""
        made = all(path.exists() for path in self.outputs)
        return made and self.saved_step >= self.steps and not self.always

    def describe(self) -> Iterator[str]:
        """Lines on what it does, from what, and the memory that it needs; touches no file."""
        yield f"{self.name}: {self.summary}"
        if self.rates:
            rates = ", ".join(f"{name} {rate:g}" for name, rate in self.rates.items())
            yield f"{self.steps} steps, batch {self.batch}, {rates}"
        if self.reads:
            yield f"begins with {' and '.join(self.reads)}"
        yield f"writes {', '.join(map(str, self.outputs))}"
        if self.memory:
            yield from _memory_lines(TrainingReport.of(self.memory, processes=self.context.planned))


def _spoilt(path: Path, stage: str, fault: str) -> str:
    return (
        f"{path} is not what stage {stage} makes: {fault}; remove it, and --stage {stage} makes it"
        " again"
    )


def _memory_lines(report: TrainingReport) -> Iterator[str]:
    count = report.processes
    word = "process" if count == 1 else "processes"
    yield f"memory per process on {count} {word} {_spell(report.total_bytes)}"
    if count > 1:
        alone = _spell(report.alone_bytes)
        yield f"on one GPU {alone}: --set sizes.processes=1 shows its parts"
    width = max(len(part.name) for part in report.parts)
    for part in report.parts:
        yield f"   {part.name:{width}}  {_spell(part.bytes):>8}"


def _spell(count: float) -> str:
    """A number of bytes in three digits and units of 1000, as GPUs are sold."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < UNIT:
            return f"{count:.3g} {unit}"
        count /= UNIT
    return f"{count:.3g} TB"
