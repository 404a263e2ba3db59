"""Progress of a training run on the terminal: one line, warnings, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afstream.training.runs.stages import Stage
    from afstream.training.trainer.log import Report
    from afstream_cli.progress import Job

MINUTE_S = 60
HOUR_S = 3600
# entries of a report that are not metrics
PLACE = ("step", "seconds")
# how names in the log are written on the line
WORDS = {
    "norm": "gradient norm",
    "critic_norm": "critic gradient norm",
    "dmd_grad": "DMD gradient",
}


class Display:
    """Shows what a stage reports.

    Args:
        stage: the stage.
        job: where to show it.
        board: called with the same metrics.
    """

    def __init__(self, stage: Stage, job: Job, board: Report | None = None) -> None:
        self._stage = stage
        self._job = job
        self._board = board
        self._part = ""

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Show one report: a warning, a contact sheet, a step with losses, or a count."""
        stage = self._stage
        if "warning" in entry:
            self._job.say(f"warning: stage {stage.name}, {entry['warning']}")
        elif "sheet" in entry:
            self._job.say(f"stage {stage.name}, step {entry['step']}: {entry['sheet']}")
        elif "step" in entry:
            self._show(stage.name, entry["step"], stage.steps, training(entry, stage))
            if self._board:
                self._board({"stage": stage.name, **entry})
        else:
            done, total = entry["done"], entry["of"]
            self._show(f"{stage.name}: {entry['kind']}", done, total, f"{done} of {total}")

    def _show(self, part: str, done: int, total: int, text: str) -> None:
        if part != self._part:
            self._part = part
            self._job.begin(part, total)
        self._job.update(done, text)


def training(entry: Mapping[str, Any], stage: Stage) -> str:
    """A step, its losses and its speed, in one line."""
    step, seconds = entry["step"], entry["seconds"]
    values = [
        f"{WORDS.get(name, name)} {value:.4g}" for name, value in entry.items() if name not in PLACE
    ]
    parts = [f"step {step} of {stage.steps}", *values]
    if seconds:
        parts.append(f"{step * stage.batch / seconds:.3g} samples/s")
    return ", ".join([*parts, f"{spell(seconds / step * (stage.steps - step))} left"])


def spell(seconds: float) -> str:
    """A length of time, rounded for people."""
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.1f} h"
