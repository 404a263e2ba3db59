"""Monitoring of a stage: warnings in its log, and contact sheets of what it makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.spec import StreamConfig
from afstream.stream import Stream
from afstream.training.recipes.tables import SheetConfig
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.health import Health, WatchConfig
from afstream.training.trainer.loop import Report
from afstream.video.sheet import ContactSheet

Draw = Callable[[Path], None]


class Observer:
    """Called after each step of a stage: checks its metrics, and draws sheets of samples.

    Args:
        log: the stage's log, which warnings and sheets are added to.
        sheets: prefix of the sheets' paths.
        watch: thresholds of warnings.
        report: called with warnings and sheets.
        every: steps between two sheets, 0 for none.
        draw: draws one into a file; None where a stage makes no videos.
        processes: all of them check and draw, and the first one reports.
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

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `afstream.training.trainer.loop.AfterStep`."""
        for text in self.health.see(step, metrics):
            self._write({"step": step, "warning": text})
        if self._draw and self._every and step % self._every == 0:
            path = self._sheets.with_name(f"{self._sheets.name}-{step:06d}.png")
            self._draw(path)
            self._write({"step": step, "sheet": str(path)})

    def _write(self, entry: dict[str, object]) -> None:
        if not self._processes.is_first:
            return
        with self._log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._report(entry)


def draw_sheet(
    model: VideoModel,
    policy: MemoryPolicy,
    sheet: SheetConfig,
    path: Path | None,
    *,
    size: Geometry,
) -> None:
    """Play a recipe's timeline with a model and draw its contact sheet.

    Args:
        model: the model.
        policy: what its stream remembers.
        sheet: timeline and seed.
        path: file of the sheet; None plays as well and draws nothing.
        size: size of the video.
    """
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
