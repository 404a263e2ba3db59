"""The loop around every trainer of one process: steps, a log, checkpoints, taking up again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from afstream.distill.optim import save_checkpoint

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

    def state(self) -> dict[str, Any]:
        """Everything that going on from here needs, step and seconds aside."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up where `state` was taken."""
        ...


def train(
    trainer: Trainer,
    steps: int,
    checkpoint: Path,
    report: Report,
    *,
    every: int = 20,
    save_every: int = 100,
    after: After = lambda _step, _told: None,
) -> None:
    """Run to the last step; goes on from the checkpoint where there is one.

    Args:
        trainer: what learns.
        steps: optimizer steps in all.
        checkpoint: its file; the log lies beside it, of the same name.
        report: called with step, seconds and the means of what `advance` told.
        every: steps between two reports.
        save_every: steps between two checkpoints.
        after: called after each step; what it raises ends the run, and the checkpoint stays.
    """
    if checkpoint.is_file():
        content = torch.load(checkpoint, weights_only=True)
        trainer.restore(content)
        trainer.step, trainer.seconds = content["step"], content["seconds"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    sums: dict[str, list[float]] = {}
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
            with checkpoint.with_suffix(".jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
            report(entry)
            sums.clear()
        if trainer.step % save_every == 0 or trainer.step == steps:
            state = {"step": trainer.step, "seconds": trainer.seconds, **trainer.state()}
            save_checkpoint(checkpoint, state)
