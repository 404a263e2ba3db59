"""Lines of standard input as they come, until another thread ends the wait for them."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator

# Whether a wait for a line can be ended.
CAN_END = os.name != "nt"
READ_BYTES = 1 << 16
# Longer than any prompt; what never ends a line must not fill the memory.
MOST_LINE_BYTES = 1 << 20
NEWLINE = b"\n"


class StdinLines:
    """The lines of standard input; bytes that are not UTF-8 stay in them as surrogates.

    They are not read through `sys.stdin`: a thread that waits in it holds its lock, and Python
    aborts when it exits while a lock of a standard stream is held.
    """

    def __init__(self) -> None:
        try:
            self._descriptor = sys.stdin.fileno()
        except (io.UnsupportedOperation, ValueError):
            self._descriptor = None
        self._woken, self._wake = os.pipe()

    def __iter__(self) -> Iterator[str]:
        """Yield lines, the last one even without its end."""
        if self._descriptor is None:
            yield from sys.stdin
            return
        rest = b""
        while data := self._read(self._descriptor):
            *lines, rest = (rest + data).split(NEWLINE)
            yield from map(decoded, lines)
            rest = rest[:MOST_LINE_BYTES]
        if rest:
            yield decoded(rest)

    def close(self) -> None:
        """End the lines, also in a thread that waits for one; Windows cannot end that wait."""
        os.close(self._wake)

    def _read(self, descriptor: int) -> bytes:
        """Some bytes as soon as there are any; none at the end or after `close`."""
        while True:
            if CAN_END:
                # The closing of its other end makes `woken` readable.
                ready, _, _ = select.select([descriptor, self._woken], [], [])
                if self._woken in ready:
                    os.close(self._woken)
                    return b""
            try:
                return os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""


def decoded(line: bytes) -> str:
    """A line as text."""
    return line.decode("utf-8", errors="surrogateescape")
