"""Monitoring of a stage: warnings in its log, and contact sheets of what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.spec import StreamConfig
from afstream.stream import Stream
from afstream.training.recipes.tables import SheetConfig
from afstream.training.trainer.checkpoints import CheckpointStore, Report
from afstream.training.trainer.health import Health, WatchConfig
from afstream.video.sheet import ContactSheet

# the folder of contact sheets in a run's folder
SHEETS = "sheets"

Draw = Callable[[Path], None]


class Observer:
    """Called after each step of a stage: checks its metrics, and draws sheets of samples.

    Args:
        store: its log takes warnings and sheets; sheets lie beside the stage's folder.
        report: called with both, in the first process.
        watch: thresholds of warnings.
        every: steps between two sheets, 0 for none.
        draw: draws one into a file, in all processes; None where a stage makes no videos.
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
            self._store.tell({"step": step, "warning": text}, self._report)
        if self._draw and self._every and step % self._every == 0:
            stage = self._store.folder
            path = stage.parent / SHEETS / f"{stage.name}-{step:06d}.png"
            self._draw(path)
            self._store.tell({"step": step, "sheet": str(path)}, self._report)


def draw_sheet(
    model: VideoModel,
    policy: MemoryPolicy,
    sheet: SheetConfig,
    path: Path | None,
    *,
    size: Geometry,
) -> None:
    """Play a recipe's timeline with a model, and draw its contact sheet into `path` if given."""
    # weights that are spread over processes cannot be captured in graphs
    config = StreamConfig(
        memory=policy,
        seed=sheet.seed,
        size=(size.width_px, size.height_px),
        graphs=False,
        ahead=False,
    )
    stream = Stream(model, config)
    drawn = ContactSheet((size.width_px, size.height_px))
    for chunk in stream.play(sheet.parsed()):
        drawn.add(chunk.frames, segment=chunk.segment, prompt=chunk.prompt, start_s=chunk.start_s)
    if path:
        drawn.save(path)
