"""What stands at a path, which may be anyone's, or no file at all."""

from __future__ import annotations

import stat
from pathlib import Path

FILE, FOLDER = "a file", "a directory"
KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_at(path: Path) -> str:
    """What stands at a path, such as "a file"; a link is not followed, and nothing is empty.

    Raises:
        OSError: the system refuses to say.
        ValueError: the path has a null character.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ""
    return KINDS.get(stat.S_IFMT(mode), "no ordinary file")
