"""Opening files so that nothing foreign is followed, replaced, emptied or waited for."""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from afstream import paths
from afstream.errors import OutputError, reason_of
from afstream.paths import FILE, FOLDER

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Not every system has all of these.
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# A pipe that took a file's place meanwhile is not waited for.
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK
ORDINARY_MODE = 0o666

CHOOSE = "choose another path"


class WholeFile(io.FileIO):
    """A file without a buffer that takes all of what is written, or raises."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of some bytes, of which the system may take a part at a time.

        Raises:
            OSError: the system took none of the rest.
        """
        everything = memoryview(data).cast("B")
        rest = everything
        while rest:
            rest = rest[super().write(rest) :]
        return len(everything)


def is_file(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        OutputError: there is something else: a link, a directory, a pipe, a device.
    """
    return _is(FILE, path)


def is_folder(path: Path) -> bool:
    """Whether a directory is there.

    Raises:
        OutputError: there is something else.
    """
    return _is(FOLDER, path)


def _is(wanted: str, path: Path) -> bool:
    kind = kind_at(path)
    if kind and kind != wanted:
        raise OutputError(f"{path} is {kind}, not {wanted}; {CHOOSE}")
    return bool(kind)


def kind_at(path: Path) -> str:
    """What stands at a path, see `paths.kind_at`.

    Raises:
        OutputError: the system refuses to say, or the path has a null character.
    """
    try:
        return paths.kind_at(path)
    except OSError as error:
        raise OutputError.of(path, error) from error
    except ValueError as error:
        raise OutputError(f"{str(path)!r} is no path ({error}); {CHOOSE}") from error


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def open_existing(path: Path, *, write: bool = False) -> WholeFile:
    """Open a file that is there; never a link, a pipe or a device.

    Raises:
        OutputError: it is not there, is something else or cannot be opened.
    """
    if not is_file(path):
        raise OutputError(f"{path} does not exist")
    access = os.O_RDWR if write else os.O_RDONLY
    try:
        handle = os.open(path, access | NO_LINK | NO_WAIT)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OutputError(f"{path} is no ordinary file; {CHOOSE}")
        return WholeFile(handle, "r+" if write else "r")
    except OSError as error:
        verb = "write" if write else "read"
        raise OutputError(f"cannot {verb} {path} ({reason_of(error)}); {CHOOSE}") from error


def create(path: Path, *, overwrite: bool) -> WholeFile:
    """Make a new file, in place of an old one only if that is allowed.

    The old one is not emptied but unlinked: it may have a second name.

    Raises:
        OSError: the system refuses; FileExistsError without `overwrite`.
        OutputError: there is something other than a file.
    """
    if is_file(path) and overwrite:
        path.unlink()
    return WholeFile(os.open(path, NEW, ORDINARY_MODE), "r+")


def refuse_changed(path: Path, file: BinaryIO, least_bytes: int = 0) -> None:
    """See that a path still leads to the file that grows there, which has not become shorter.

    Raises:
        OSError: something else has removed, replaced or cut it.
    """
    own = os.fstat(file.fileno())
    try:
        same = os.path.samestat(own, path.lstat())
    except FileNotFoundError:
        same = False
    if not same or own.st_size < least_bytes:
        raise OSError(errno.ESTALE, "something else has removed, replaced or cut it")


def probe(path: Path) -> None:
    """Check that a file can be written, making its parent folders, and leave it as it was.

    Raises:
        OSError: it cannot be written.
        OutputError: there is something other than a file, or the path is no path.
    """
    if is_file(path):
        open_existing(path, write=True).close()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    create(path, overwrite=False).close()
    with suppress(OSError):
        path.unlink()
