"""Files that are written whole or not at all, whenever the process or the machine stops.

A file is written under another name in the same folder, reaches the disk, and then takes its own
name; only then is the old one gone.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from afstream.errors import OutputError
from afstream.paths import FILE, kind_at

# never an existing file, never through a link; not every system has all of these
FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL
CREATE = FLAGS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# characters of a name that its temporary's name repeats, so that it never becomes too long
SHOWN = 40


@contextmanager
def replace_file(
    path: str | os.PathLike[str], *, what: str = ""
) -> Generator[BinaryIO, None, None]:
    """Give a file to write; when the block ends, it takes the place of the one at `path`.

    Where `path` is a link, the file that it leads to is replaced. If the block raises, the old file
    stays as it was and nothing else is left behind.

    Args:
        path: the file; its folder must exist.
        what: what is written, for the error, such as "the saved state".

    Raises:
        OutputError: the system refuses, or there is something other than a file at the path. An
            `OSError` that is raised within the block counts as the system refusing.
    """
    goal = Path(os.path.realpath(path))
    shown = f"{what} {path}".lstrip()
    temporary = goal.with_name(f".{goal.name[:SHOWN]}.{secrets.token_hex(4)}.partial")
    try:
        # a folder, a device and a pipe are never replaced
        if kind_at(goal) not in ("", FILE):
            raise OutputError(f"cannot write {shown}: it is no ordinary file; choose another path")
        # the mode of an ordinary file; the process's umask takes away what it forbids
        file = os.fdopen(os.open(temporary, CREATE, 0o666), "w+b")
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            temporary.replace(goal)
        except BaseException:
            for undo in (file.close, temporary.unlink):
                with suppress(OSError):
                    undo()
            raise
        sync_folder(goal.parent)
    except OSError as error:
        raise OutputError.of(shown, error) from error


def write_text(path: str | os.PathLike[str], text: str, *, what: str = "") -> None:
    """Write a text as UTF-8; see `replace_file`."""
    with replace_file(path, what=what) as file:
        file.write(text.encode())


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of files that they were writing in a folder.

    Nobody else may be writing them.

    Args:
        folder: where; it need not exist.
        name: of the one file; all of them unless given.
    """
    pattern = name if name == "*" else escape(name[:SHOWN])
    for left in folder.glob(f".{pattern}.????????.partial"):
        with suppress(OSError):
            left.unlink()


def sync_folder(folder: Path) -> None:
    """Make a change of names in a folder survive a power failure.

    Raises:
        OSError: the system refuses.
    """
    if os.name == "nt":
        # it opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some file systems have no such call for a folder
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
