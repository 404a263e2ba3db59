"""The log of a training stage: metrics, warnings and contact sheets, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from afstream.atomic import write_text
from afstream.errors import OutputError
from afstream.training.trainer.distributed import Processes

LOG = "log.jsonl"

# called with what a run has to tell: metrics of a step, a warning, a sheet
Report = Callable[[Mapping[str, Any]], None]


class StageLog:
    """A log in a stage's folder, which the first of a run's processes writes."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.path = folder / LOG
        self._processes = processes

    def tell(self, entry: Mapping[str, Any], report: Report) -> None:
        """Add an entry and report it, in the first process.

        Raises:
            OutputError: the log cannot be written.
        """
        if self._processes.is_first:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError as error:
                raise OutputError.of(self.path, error) from error
            report(entry)

    def cut(self, step: int) -> int:
        """Remove entries after a step, and lines that are none; make the stage's folder.

        Returns:
            How many lines were no entries, a half-written last one aside.

        Raises:
            OutputError: the log cannot be read or written.
        """
        path = self.path
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is no ordinary file, so no log can be kept; remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        except OSError as error:
            raise OutputError.of(path, error) from error
        steps = [(line, _logged_step(line)) for line in lines if line.endswith(b"\n")]
        kept = [line for line, at in steps if at is not None and at <= step]
        if kept != lines:
            write_text(path, b"".join(kept).decode())
        return sum(at is None for _, at in steps)


def _logged_step(line: bytes) -> int | None:
    """The step of an entry; None of anything else."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return step if isinstance(step, int) else None
