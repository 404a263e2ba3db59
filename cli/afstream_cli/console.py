"""Messages of a run: progress on stderr, data on stdout."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from afstream.errors import OutputError
from afstream.text import printable
from afstream.video.sheet import clock
from afstream_cli.progress import Display

if TYPE_CHECKING:
    from afstream.film.tally import Tally
    from afstream.stream import Chunk

STATUS_EVERY_S = 5.0
PROMPT_STYLE = "bold"
TIME_STYLE = "yellow"


class Report(Display):
    """The progress of a run; this one prints nothing but warnings."""

    def begin(self, num_frames: int | None) -> None:
        """Begin with the number of video frames to come, None in a live stream."""

    def say(self, text: str) -> None:
        """Print a message unless the user asked for quiet."""

    def warn(self, text: str) -> None:
        """Print a message that must be seen; may be called from any thread."""
        self.console.print(f"afstream: {printable(text)}")

    def chunk(self, chunk: Chunk, tally: Tally) -> None:
        """Report that a chunk was made and written."""


class JsonLines(Report):
    """One line of JSON per chunk on standard output."""

    def chunk(self, chunk: Chunk, tally: Tally) -> None:
        """Print the chunk's line at once, so that a reader can follow."""
        line = {
            "chunk": chunk.index,
            "segment": chunk.segment,
            "prompt": chunk.prompt,
            "start_s": chunk.start_s,
            "frames": len(chunk.frames),
            "total_frames": tally.frames,
            "receipts": [receipt.as_data() for receipt in chunk.receipts],
            "timing": asdict(chunk.timing),
        }
        try:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        except OutputError as error:
            raise OutputError(f"{error}; {tally.seconds:.2f} s were made") from error


class Lines(Report):
    """Prints a line per prompt, and one every few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._due = 0.0
        self._num_frames: int | None = None

    def begin(self, num_frames: int | None) -> None:
        """Remember the number of frames to come."""
        self._num_frames = num_frames
        self._due = time.monotonic() + STATUS_EVERY_S

    def say(self, text: str) -> None:
        """Print the message."""
        self.console.print(printable(text))

    def chunk(self, chunk: Chunk, tally: Tally) -> None:
        """Print the prompt when it is new, and every few seconds the progress."""
        if chunk.receipts:
            self.console.print(headline(chunk))
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + STATUS_EVERY_S
            self.console.print(status(chunk, tally, self._num_frames))


class Bar(Report):
    """Draws a progress bar below the prompts so far, for terminals."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = self._progress = Progress(
            BarColumn(24),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            # Drawn with each chunk: a thread that redraws would take time from the model.
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False)
        self._num_frames: int | None = None

    def begin(self, num_frames: int | None) -> None:
        """Show the bar."""
        self._num_frames = num_frames
        self._progress.update(self._task, total=num_frames, visible=True, refresh=True)

    def say(self, text: str) -> None:
        """Print the message above the bar."""
        self.console.print(printable(text))

    def chunk(self, chunk: Chunk, tally: Tally) -> None:
        """Move the bar; print the prompt above it when it is new."""
        if chunk.receipts:
            self.console.print(headline(chunk))
        text = status(chunk, tally, self._num_frames)
        self._progress.update(self._task, completed=tally.frames, description=text, refresh=True)


def open_report(*, quiet: bool, as_json: bool, typing: bool) -> Report:
    """The report for the options and the terminal.

    Args:
        quiet: print warnings only.
        as_json: print lines of JSON on standard output.
        typing: cues are typed; a bar would overwrite the line being typed.
    """
    if as_json:
        return JsonLines()
    if quiet:
        return Report()
    return Bar() if sys.stderr.isatty() and not typing else Lines()


def headline(chunk: Chunk) -> Text:
    """The line at the start of a segment: its time and prompt, and the switch's latency."""
    text = Text()
    text.append(f"{clock(chunk.start_s):>8}", TIME_STYLE)
    text.append(f"  {printable(chunk.prompt)}", PROMPT_STYLE)
    newest = chunk.receipts[-1]
    if chunk.index and newest.switch_ms is not None:
        word = "cut" if newest.transition == "cut" else "switch"
        text.append(f"  (chunk {chunk.index}, {word} {newest.switch_ms:.0f} ms)", "dim")
    return text


def status(chunk: Chunk, tally: Tally, num_frames: int | None) -> str:
    """Progress and speed in one line."""
    whole = "" if num_frames is None else f" of {num_frames / tally.fps:.1f}"
    parts = [
        f"chunk {chunk.index}",
        f"{tally.seconds:.1f}{whole} s",
        f"{tally.frames_per_s:.1f} fps",
    ]
    if tally.first_frame_ms is not None:
        parts.append(f"first frame {tally.first_frame_ms:.0f} ms")
    if tally.switch_ms is not None:
        parts.append(f"switch {tally.switch_ms:.0f} ms")
    return ", ".join(parts)
