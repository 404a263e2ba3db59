"""The plan of a training run, as `afstream distill --dry-run` shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afstream.memory_plan.training import TrainingReport
from afstream.training.runs.stages import Run, Stage

UNITS = ("B", "KB", "MB", "GB", "TB")
UNIT = 1000
INDENT = "   "


def describe(run: Run, stages: Sequence[Stage]) -> Iterator[str]:
    """Lines on each stage: what it does, from what, and the memory that it needs."""
    yield f"model {run.recipe.model}, everything into {run.folder}"
    for number, stage in enumerate(stages, start=1):
        yield ""
        yield f"{number}. {stage.name}: {stage.what}"
        if stage.steps:
            rates = ", ".join(f"{name} {rate:g}" for name, rate in stage.rates)
            yield f"{INDENT}{stage.steps} steps, batch {stage.batch}, {rates}"
        if stage.reads:
            yield f"{INDENT}begins with {' and '.join(stage.reads)}"
        yield f"{INDENT}writes {', '.join(str(path) for path in stage.made)}"
        if stage.memory:
            yield from _memory(stage.memory)
    yield ""
    yield "memory is counted from the sizes; other activations come on top"


def _memory(report: TrainingReport) -> Iterator[str]:
    width = max(len(part.name) for part in report.parts)
    count = report.processes
    word = "process" if count == 1 else "processes"
    total = spell_bytes(report.total_bytes)
    yield f"{INDENT}memory per process on {count} {word} {total}"
    if count > 1:
        alone = spell_bytes(report.alone_bytes)
        yield f"{INDENT}on one GPU {alone}: --set sizes.processes=1 shows its parts"
    for part in report.parts:
        yield f"{INDENT}{INDENT}{part.name:{width}}  {spell_bytes(part.bytes):>8}"


def spell_bytes(count: float) -> str:
    """A number of bytes in three digits."""
    *smaller, largest = UNITS
    for unit in smaller:
        if count < UNIT:
            return f"{count:.3g} {unit}"
        count /= UNIT
    return f"{count:.3g} {largest}"
