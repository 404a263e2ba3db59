"""Stop a process at its k-th file operation, for every k, as SQLite tests itself."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# what writing a file asks of the system; a write through a buffer is caught where it is flushed
OPERATIONS = ((os, "open"), (os, "fsync"), (os, "close"), (Path, "replace"), (Path, "unlink"))
STOPPED = 77


def crash_points(work: Callable[[], object], *, before: Callable[[], object]) -> Iterator[int]:
    """Run `before`, then `work` in a process that ends at its k-th operation, for k = 1, 2, ...

    Yields:
        k, after the process has ended; the last one let the work come to its end.
    """
    k, code = 0, STOPPED
    while code == STOPPED:
        k += 1
        before()
        child = os.fork()
        if not child:
            _run(work, k)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, STOPPED), f"the work itself failed at operation {k}"
        yield k


def _run(work: Callable[[], object], stop: int) -> None:
    """Run the work in this process, which ends with it."""
    count = 0

    def step(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **given: object) -> object:
            nonlocal count
            count += 1
            if count == stop:
                os._exit(STOPPED)
            return call(*args, **given)

        return counted

    class File(io.FileIO):
        def write(self, data):
            half = memoryview(data).cast("B")[: len(data) // 2]
            step(lambda: None)()
            super().write(half)
            # torn: half of the bytes are in the file
            step(lambda: None)()
            return len(half) + super().write(memoryview(data).cast("B")[len(half) :])

    for owner, name in OPERATIONS:
        setattr(owner, name, step(getattr(owner, name)))
    os.fdopen = lambda handle, mode: io.BufferedRandom(File(handle, "r+"))
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)
