"""A lock on what a run writes: two runs on one folder, or one video, would spoil each other's."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from afstream.errors import OutputError
from afstream.paths import FILE, kind_at

# in the folder that is written, or beside the file
IN_FOLDER, BESIDE = ".lock", ".{}.lock"
# what a holder leaves in the lock file: its process and its machine
HOLDER = re.compile(r"\d{1,10} on [\w.-]{1,64}", re.ASCII)


def lock_path(path: Path) -> Path:
    """The lock file of a folder, within it, or of a file, beside it; links are followed."""
    path = Path(os.path.realpath(path))
    return path / IN_FOLDER if path.is_dir() else path.with_name(BESIDE.format(path.name))


@contextmanager
def hold(path: Path, *, what: str) -> Generator[None, None, None]:
    """Hold the lock of a folder, which must exist, or of a file, which need not.

    The system frees it when the process ends, however it ends; a forked child does not hold it.
    `what` is the kind of thing, for the sentence: "folder" or "file".

    Raises:
        OutputError: another run holds it, which is not waited for, or it cannot be made.
    """
    goal = lock_path(path)
    try:
        # a FIFO would be waited for, and what a link leads to is not ours
        if kind_at(goal) not in ("", FILE):
            raise OutputError(
                f"{goal} is no ordinary file, so {path} cannot be locked; remove it, or choose"
                f" another {what}"
            )
        # it would be made, and a folder of a mistyped name is no help
        goal.parent.stat()
        lock = FileLock(goal, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"{path} is being written by another run{_holder(goal)}; wait for it, or choose"
            f" another {what}"
        ) from error
    except OSError as error:
        raise OutputError.of(goal, error) from error
    try:
        # where an open file cannot be written a second time, the sentence names no process
        with suppress(OSError):
            goal.write_text(f"{os.getpid()} on {platform.node()}", "utf-8")
        yield
    finally:
        # before it is free: whoever comes next makes its own
        with suppress(OSError):
            goal.unlink()
        lock.release()


def _holder(goal: Path) -> str:
    """The process that holds a lock, in words; empty where it cannot be told."""
    try:
        with goal.open("rb") as file:
            text = file.read(100).decode("utf-8", "replace")
    except OSError:
        return ""
    return f" (process {text})" if HOLDER.fullmatch(text) else ""
