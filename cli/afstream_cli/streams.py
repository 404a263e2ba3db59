"""The standard streams, made safe: closed, full, without a reader, or of another encoding."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from afstream.errors import OutputError, reason_of
from afstream.text import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2


class StandardOutput(io.FileIO):
    """A standard stream that decides for itself what a failed write means."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of the bytes, and return how many."""
        try:
            written = super().write(data)
        except OSError as error:
            written = self.failed(error)
        return self.stalled(data) if written is None else written or len(memoryview(data))

    def failed(self, error: OSError) -> int:
        """Decide about a failed write; 0 passes over it."""
        raise NotImplementedError

    def stalled(self, data: ReadableBuffer) -> int:
        """Decide what to do when a stream that does not wait takes nothing."""
        raise NotImplementedError


class Data(StandardOutput):
    """Standard output: whoever asked for the data must hear that they are not all there."""

    def failed(self, error: OSError) -> int:
        """Report it as the user's error."""
        reason = reason_of(error)
        if error.errno in (errno.EPIPE, errno.EBADF):
            reason = "its reader went away" if error.errno == errno.EPIPE else "it is closed"
        raise OutputError(f"cannot write to standard output, {reason}") from error

    def stalled(self, data: ReadableBuffer) -> int:
        """Wait for the reader."""
        select.select([], [self], [])
        return self.write(data)


class Progress(StandardOutput):
    """Standard error: nothing fails because nobody reads it."""

    def failed(self, error: OSError) -> int:
        """Pass over it."""
        return 0

    def stalled(self, data: ReadableBuffer) -> int:
        """Drop it."""
        return len(memoryview(data))


@contextmanager
def safe_streams() -> Generator[None, None, None]:
    """Give the command standard streams that can always be used.

    Characters that a stream's encoding lacks are written as escapes. A stream that was replaced,
    as tests do, is left alone.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    occupy()
    if sys.stdin is None:
        sys.stdin = open(STDIN, closefd=False)  # noqa: SIM115 - open until the command ends
    if sys.stdout is sys.__stdout__:
        sys.stdout = over(Data(STDOUT, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = over(Progress(STDERR, "w", closefd=False), sys.stderr)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def occupy() -> None:
    """Open the standard streams that are closed, so that no other file gets their numbers.

    Standard input is then at its end, and writing to the others still fails.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def over(raw: StandardOutput, stream: TextIO | None) -> TextIO:
    """A text stream that writes to `raw` what `stream` would."""
    if stream:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",
        line_buffering=isinstance(raw, Progress) or raw.isatty(),
    )


def tell(message: object) -> None:
    """Print one line on standard error, control characters shown as escapes."""
    try:
        sys.stderr.write(printable(message) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return
