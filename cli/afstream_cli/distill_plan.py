"""The plan of a training run, as `afstream distill --dry-run` shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
            yield from _memory(stage)
    yield ""
    yield "memory is per process and counted from the sizes; activations come on top"


def _memory(stage: Stage) -> Iterator[str]:
    width = max(len(share.what) for share in stage.memory)
    total = sum(share.size_bytes for share in stage.memory)
    yield f"{INDENT}memory {spell_bytes(total)}"
    for share in stage.memory:
        yield f"{INDENT}{INDENT}{share.what:{width}}  {spell_bytes(share.size_bytes):>8}"


def spell_bytes(count: float) -> str:
    """A number of bytes in three digits."""
    *smaller, largest = UNITS
    for unit in smaller:
        if count < UNIT:
            return f"{count:.3g} {unit}"
        count /= UNIT
    return f"{count:.3g} {largest}"
