"""The loop around every trainer: steps, a log, checkpoints, resuming."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from afstream.errors import CheckpointError, TrainingError
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.log import Report
from afstream.training.trainer.optim import Ema, optimizer_state, set_rates, trained, update

# steps without numbers behind each other from which on the weights are at fault, not the samples
MOST_LOST = 2
AGAIN = (
    "the last good checkpoint is kept: lower the learning rates and go on from it with --resume"
    " --accept-changes"
)

# called with a step, counted from 1, and its metrics
AfterStep = Callable[[int, Mapping[str, float]], None]


class Trainer(ABC):
    """Something that learns step by step, alone or with other processes that share its batch.

    `step` counts the optimizer steps done, `seconds` the time that they took.

    Args:
        networks: modules that learn, and their optimizers, by name.
        ema: moving average of the weights, if there is one.
        random: generator whose state belongs to a checkpoint, if numbers are drawn from one.
        processes: that share the batch.
    """

    def __init__(
        self,
        networks: Mapping[str, tuple[nn.Module, Sequence[Optimizer]]],
        *,
        ema: Ema | None = None,
        random: torch.Generator | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.step = 0
        self.seconds = 0.0
        self.processes = processes
        self._averaged = ema
        self._networks = networks
        self._generator = random

    @abstractmethod
    def advance(self) -> dict[str, float]:
        """Do one optimizer step and return its metrics; the loop counts it."""

    def state(self) -> dict[str, Any] | None:
        """Everything that resuming needs besides `step` and `seconds`.

        Tensors, within mappings, are the trainer's own, which loading a checkpoint fills in place;
        everything else is what JSON holds. None where the state cannot be saved now: ask again
        after the next step. Before the first step and after the last one there is a state.
        """
        state: dict[str, Any] = {}
        for name, (module, optimizers) in self._networks.items():
            weights = trained(module)
            state[name] = {key: weight.detach() for key, weight in weights.items()}
            state[f"{name}_optimizer"] = optimizer_state(optimizers, weights)
        if self._averaged:
            state["ema"] = self._averaged.weights
        if self._generator:
            state["random"] = self._generator.get_state()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state whose tensors were filled in place already."""
        if self._generator:
            self._generator.set_state(state["random"])

    def update(self, name: str, max_norm: float, rate: float = 1.0) -> float:
        """Step a network's optimizers at a share of their peak rates; the gradient's norm.

        See `afstream.training.trainer.optim.update`.
        """
        module, optimizers = self._networks[name]
        set_rates(optimizers, rate)
        return update(trained(module).values(), optimizers, max_norm, self.processes)


def train(
    trainer: Trainer,
    steps: int,
    store: CheckpointStore,
    report: Report,
    *,
    every: int = 20,
    save_every: int = 100,
    after: AfterStep = lambda _step, _metrics: None,
) -> None:
    """Run to the last step; goes on from the last checkpoint where there is one.

    The first process reports and logs, every so many steps, the step, seconds and means of what
    `advance` returned, and reports a `warning` where a checkpoint was torn. Checkpoints are further
    apart where a trainer has no state to save, or a step came out without numbers. What `after`
    raises after a step ends the run, and the checkpoints stay; but one from which nothing but steps
    without numbers followed is set aside. A state that is not finite is never saved.

    Raises:
        TrainingError: the state came out not finite, or the last steps without numbers.
        CheckpointError: the checkpoints are of another run; see `CheckpointStore.load`.
        OutputError: a checkpoint or the log cannot be written.
    """
    values = _resume(trainer, store, report)
    due, in_row = False, 0
    while trainer.step < steps:
        began = time.perf_counter()
        metrics = trainer.advance()
        trainer.seconds += time.perf_counter() - began
        trainer.step += 1
        in_row = 0 if all(map(math.isfinite, metrics.values())) else in_row + 1
        fault: TrainingError | None = None
        if trainer.step == steps and in_row >= MOST_LOST:
            words = f"the last {in_row} of {steps} steps came out without numbers"
            fault = TrainingError(f"{words}; {AGAIN}")
        try:
            after(trainer.step, metrics)
        except TrainingError as error:
            fault = error
        if fault:
            for text in store.set_aside(trainer.step - in_row) if in_row >= MOST_LOST else ():
                store.log.tell({"step": trainer.step, "warning": text}, report)
            raise fault
        for name, value in metrics.items():
            # JSON has no NaN, and one skipped step shall not hide the others
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
        if trainer.step % every == 0:
            means = {name: sum(found) / len(found) for name, found in values.items()}
            timed = {"step": trainer.step, "seconds": round(trainer.seconds, 1)}
            store.log.tell({**timed, **means}, report)
            values.clear()
        due = due or trainer.step % save_every == 0 or trainer.step == steps
        state = trainer.state() if due and (not in_row or trainer.step == steps) else None
        if state is not None:
            counts = {"step": trainer.step, "seconds": trainer.seconds, "values": values}
            store.save(trainer.step, {**counts, **state})
            due = False


def _resume(trainer: Trainer, store: CheckpointStore, report: Report) -> dict[str, list[float]]:
    """Restore the last checkpoint; metrics since the last report before it."""
    content, warnings = store.load(trainer.state() or {})
    values: dict[str, list[float]] = {}
    if content is not None:
        try:
            trainer.restore(content)
            trainer.step, trainer.seconds = int(content["step"]), float(content["seconds"])
            values = {name: list(found) for name, found in content["values"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{store.folder} holds a checkpoint of another run ({error}); begin in another"
                " folder"
            ) from error
    if store.processes.is_first:
        if lost := store.log.cut(trainer.step):
            warnings.append(f"{lost} lines of {store.log.path} were no entries, and are left out")
        for warning in warnings:
            report({"step": trainer.step, "warning": warning})
    return values
