"""The loop around every trainer: steps, a log, checkpoints, taking up again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from afstream.training.machinery.optim import save_checkpoint
from afstream.training.machinery.parallel import ALONE, Processes

Report = Callable[[Mapping[str, Any]], None]
# a step, counted from 1, and what it told
After = Callable[[int, Mapping[str, float]], None]


class Trainer(Protocol):
    """Something that learns step by step.

    Attributes:
        step: optimizer steps done.
        seconds: that they took.
    """

    step: int
    seconds: float

    def advance(self) -> dict[str, float]:
        """One optimizer step; what is worth telling of it. The loop counts it."""
        ...

    def state(self) -> dict[str, Any] | None:
        """Everything that going on from here needs, step and seconds aside.

        None where it cannot be told: ask again after the next step. Before the first step and
        after the last one it can.
        """
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up where `state` was taken."""
        ...


class Store(Protocol):
    """Where checkpoints lie.

    Attributes:
        log: the run's log, JSON lines.
    """

    log: Path

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Keep a state; a kill leaves what was there, or what is there now."""
        ...

    def load(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, list[str]]:
        """What was kept last, None if nothing; and warnings.

        Args:
            state: the trainer's, whose tensors may be filled in place.
        """
        ...


class OneFile:
    """A checkpoint of one process; see `Store`.

    Args:
        path: its file; the log lies beside it, of the same name.
    """

    def __init__(self, path: Path) -> None:
        self.log = path.with_suffix(".jsonl")
        self._path = path

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the file."""
        del step
        save_checkpoint(self._path, dict(state))

    def load(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, list[str]]:
        """Read the file."""
        del state
        found = torch.load(self._path, weights_only=True) if self._path.is_file() else None
        return found, []


def train(
    trainer: Trainer,
    steps: int,
    checkpoint: Path | Store,
    report: Report,
    *,
    every: int = 20,
    save_every: int = 100,
    processes: Processes = ALONE,
    after: After = lambda _step, _told: None,
) -> None:
    """Run to the last step; goes on from the last checkpoint where there is one.

    Args:
        trainer: what learns.
        steps: optimizer steps in all.
        checkpoint: a file, see `OneFile`; or another place.
        report: called in the first process, with step, seconds and the means of what `advance`
            told, and with step and `warning` where a checkpoint was torn.
        every: steps between two reports.
        save_every: steps between two checkpoints, or more where a trainer cannot tell its state.
        processes: that share the run.
        after: called after each step; what it raises ends the run, and the checkpoint stays.
    """
    store = OneFile(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    sums: dict[str, list[float]] = _take_up(trainer, store, report, processes)
    due = False
    while trainer.step < steps:
        began = time.perf_counter()
        told = trainer.advance()
        trainer.seconds += time.perf_counter() - began
        trainer.step += 1
        after(trainer.step, told)
        for name, value in told.items():
            # JSON has no NaN, and one skipped step shall not hide the others
            if math.isfinite(value):
                sums.setdefault(name, []).append(value)
        if trainer.step % every == 0:
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            entry = {"step": trainer.step, "seconds": round(trainer.seconds, 1), **means}
            if processes.is_first:
                with store.log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                report(entry)
            sums.clear()
        due = due or trainer.step % save_every == 0 or trainer.step == steps
        state = trainer.state() if due else None
        if state is not None:
            counts = {"step": trainer.step, "seconds": trainer.seconds, "sums": sums}
            store.save(trainer.step, {**counts, **state})
            due = False


def _take_up(
    trainer: Trainer, store: Store, report: Report, processes: Processes
) -> dict[str, list[float]]:
    """Restore the last checkpoint; what was told since the last report before it."""
    counts = {"step": 0, "seconds": 0.0, "sums": {}}
    content, warnings = store.load({**counts, **(trainer.state() or {})})
    if content is not None:
        trainer.restore(content)
        trainer.step, trainer.seconds = content["step"], content["seconds"]
    if processes.is_first:
        store.log.parent.mkdir(parents=True, exist_ok=True)
        _cut(store.log, trainer.step)
        for warning in warnings:
            report({"step": trainer.step, "warning": warning})
    return dict(content.get("sums", {})) if content is not None else {}


def _cut(log: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint, and half a line."""
    if not log.is_file():
        return
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    partial = log.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(log)
