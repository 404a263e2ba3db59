"""Progress of a long job on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from afstream.text import printable

LINE_EVERY_S = 5.0
D = TypeVar("D", bound="Display")


class Display:
    """Writes to standard error; use it in a `with` statement.

    Attributes:
        console: standard error.
        bar: drawn while the `with` statement lasts, None for displays without a bar.
    """

    bar: Progress | None = None

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self: D) -> D:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()


class Job(Display):
    """The progress of a long job; this one prints nothing but messages."""

    def begin(self, name: str, total: float) -> None:
        """Begin the next part, which is done at `total`."""

    def update(self, done: float, text: str) -> None:
        """Report how much of the part is done."""

    def say(self, text: str) -> None:
        """Print a message that must be seen."""
        self.console.print(f"afstream: {printable(text)}")


class SilentJob(Job):
    """Prints nothing at all, because only one of several processes prints."""

    def say(self, text: str) -> None:
        """Print nothing."""


class LinesJob(Job):
    """Prints a line every few seconds, and one at the end of every part."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._total = 0.0
        self._due = 0.0

    def begin(self, name: str, total: float) -> None:
        """Store the part; its first update is printed at once."""
        self._name, self._total, self._due = name, total, 0.0

    def update(self, done: float, text: str) -> None:
        """Print a line if it is time."""
        if time.monotonic() >= self._due or done >= self._total:
            self._due = time.monotonic() + LINE_EVERY_S
            self.console.print(printable(f"{self._name}  {text}"))


class BarJob(Job):
    """Draws a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = self._progress = Progress(
            TextColumn("{task.fields[part]}", style="bold", markup=False),
            BarColumn(24),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
            # Redrawing takes time from what is measured or trained.
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=None, visible=False, part="")

    def begin(self, name: str, total: float) -> None:
        """Show an empty bar."""
        self._progress.reset(self._task, total=total, visible=True, part=name, description="")

    def update(self, done: float, text: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, description=printable(text))


def open_job(*, quiet: bool = False) -> Job:
    """The display that fits the terminal."""
    if quiet:
        return Job()
    return BarJob() if sys.stderr.isatty() else LinesJob()
