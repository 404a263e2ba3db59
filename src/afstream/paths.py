"""What users give as a path, and what stands there: anyone's file, or none at all."""

from __future__ import annotations

import re
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
# a repository's name, as in an address of Hugging Face
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def expanded(given: str) -> str:
    """A path with the user's own folder in the place of a leading `~/`."""
    return str(Path(given).expanduser()) if given.startswith("~/") else given


def fetching(given: str) -> str:
    """How to fetch a model, if what was given may name a repository; empty where it does not."""
    if not REPOSITORY.fullmatch(given):
        return ""
    folder = given.partition("/")[2]
    return (
        f"; if that is a repository on Hugging Face, fetch it with"
        f" `hf download {given} --local-dir {folder}`, and give that folder"
    )


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
