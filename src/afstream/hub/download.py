"""A published model to a folder: told first, fetched where it stopped, checked byte by byte.

A file has its own name only once it is whole and has the digest that the hub states. Until then it
is `NAME.DIGEST.part` beside its place, which the next download goes on with. Nothing that is there
is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from afstream.atomic import sync_folder, write_text
from afstream.errors import ConfigError, DownloadError, OutputError
from afstream.hub.catalogue import Published
from afstream.lock import hold
from afstream.paths import FILE, kind_at

if TYPE_CHECKING:
    from afstream.hub.client import RemoteFile, Repository

INSTALL = "pip install 'afstream[hub]'"
# characters of a digest in the name of a part
SHOWN = 12
# digits of a SHA-256
SHA256_DIGITS = 64
READ_BYTES = 1 << 22
FULL = (errno.ENOSPC, errno.EDQUOT)

# what is being done, bytes done, bytes in all
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file that is wanted: what it is, what the hub says of it, and where it goes."""

    content: str
    remote: RemoteFile
    goal: Path

    @property
    def there(self) -> bool:
        """Whether a file of its size is in its place."""
        return _size(self.goal) == self.remote.num_bytes

    @property
    def part(self) -> Path:
        """What it is called until it is whole."""
        return self.goal.with_name(f"{self.goal.name}.{self.remote.digest[:SHOWN]}.part")

    @property
    def num_fetched(self) -> int:
        """Bytes that are here."""
        if self.there:
            return self.remote.num_bytes
        return min(_size(self.part) or 0, self.remote.num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a download will do.

    Attributes:
        model: the row of the catalogue.
        repository: where the files come from, as the hub states it now.
        folder: where they go.
        files: all of them, those that are there already among them.
    """

    model: Published
    repository: Repository
    folder: Path
    files: tuple[Wanted, ...]

    @property
    def record(self) -> Path:
        """The file that says where the others are from."""
        return self.folder / f"{self.model.name}.download.json"

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(one.remote.num_bytes for one in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes that are not here yet."""
        return self.num_bytes - sum(one.num_fetched for one in self.files)

    @property
    def free_bytes(self) -> int:
        """Bytes that the disk has room for."""
        place = self.folder.absolute()
        there = next(one for one in (place, *place.parents) if os.path.exists(one))  # noqa: PTH110
        return shutil.disk_usage(there).free

    def check(self) -> None:
        """See that nothing is in the way, and that the disk has room.

        Raises:
            DownloadError: something else is in a file's place, or the disk is too full.
            OutputError: the system refuses to look.
        """
        try:
            for one in self.files:
                if kind_at(one.goal) and not one.there:
                    raise _another(one, self.repository)
            needed, free = self.missing_bytes, self.free_bytes
        except OSError as error:
            raise OutputError.of(self.folder, error) from error
        if needed > free:
            raise DownloadError(
                f"{needed:,} bytes are to be fetched, and {free:,} are free where {self.folder} is;"
                " make room, or give --to a folder on another disk"
            )


def plan_download(
    model: Published, folder: Path, *, repository: str = "", with_backbone: bool = False
) -> Plan:
    """Ask the hub what a model's files are now; nothing is written.

    Args:
        model: the row of the catalogue.
        folder: where the files go, under their paths in the repository.
        repository: another one with the same files, `owner/name`.
        with_backbone: also the backbone that only training needs.

    Raises:
        ConfigError: huggingface_hub is not installed, or there is no such backbone.
        DownloadError: the hub cannot be reached or refuses, or files are not there.
    """
    wanted = model.wanted(with_backbone=with_backbone)
    found = _client().look(repository or model.repository)
    lacking = [one.path for one in wanted if one.path not in found.files]
    if lacking:
        raise DownloadError(
            f"{found.name} has no {', '.join(lacking)} at revision {found.revision[:SHOWN]}: its"
            f" files have other names now; see {found.card}/tree/main"
        )
    files = tuple(
        Wanted(content=one.content, remote=found.files[one.path], goal=folder / one.path)
        for one in wanted
    )
    return Plan(model=model, repository=found, folder=folder, files=files)


def download(plan: Plan, tell: Tell) -> None:
    """Fetch what is missing, and check all of it.

    Parts stay when it is stopped, by an error or a `KeyboardInterrupt`.

    Raises:
        DownloadError: see `Plan.check`; the hub cannot be reached or refuses; a file is not what
            the hub states.
        OutputError: the system refuses to write, or another run writes the folder.
    """
    plan.check()
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(plan.folder, error) from error
    with hold(plan.folder, what="folder"):
        there = [one for one in plan.files if one.there]
        for one in there:
            if _digest(one.goal, one, tell) != one.remote.digest:
                raise _another(one, plan.repository)
        write_text(plan.record, _record(plan))
        for one in plan.files:
            if one not in there:
                _fetch(one, plan, tell)


def _client() -> Any:  # noqa: ANN401 - the module
    """The module that needs huggingface_hub."""
    try:
        from afstream.hub import client  # noqa: PLC0415
    except ImportError as error:
        if error.name == "huggingface_hub" and isinstance(error, ModuleNotFoundError):
            raise ConfigError(
                f"downloading needs huggingface_hub; install it with {INSTALL}, or fetch the files"
                " by hand as docs/models.md shows"
            ) from error
        raise ConfigError(
            "the installed release of huggingface_hub does not fit afstream; update it with"
            f" {INSTALL} --upgrade"
        ) from error
    return client


def _record(plan: Plan) -> str:
    """What was told, for whoever wants to know later where the files are from."""
    repository = plan.repository
    data = {
        "repository": repository.name,
        "revision": repository.revision,
        "licence": repository.licence,
        "files": {
            one.remote.path: {"bytes": one.remote.num_bytes, "digest": one.remote.digest}
            for one in plan.files
        },
    }
    return json.dumps(data, indent=2) + "\n"


def _fetch(one: Wanted, plan: Plan, tell: Tell) -> None:
    """One file, from where its part ends."""
    try:
        one.goal.parent.mkdir(parents=True, exist_ok=True)
        if kind_at(one.part) not in ("", FILE):
            raise DownloadError(f"{one.part} is no ordinary file; remove it")
        with one.part.open("ab") as file:
            have = file.tell()
            # longer than the file is: not its beginning
            if have > one.remote.num_bytes:
                have = file.truncate(0)
            if have < one.remote.num_bytes:
                into = cast("BinaryIO", _Counted(file, partial(tell, one.remote.path), one.remote))
                _client().fetch(plan.repository, one.remote, into, have)
            file.flush()
            os.fsync(file.fileno())
        if _digest(one.part, one, tell) != one.remote.digest:
            one.part.unlink()
            raise DownloadError(
                f"{one.remote.path} arrived damaged: its digest is not the one that the hub states;"
                " it was removed, and the same command fetches it again"
            )
        if kind_at(one.goal):
            raise _another(one, plan.repository)
        one.part.rename(one.goal)
        sync_folder(one.goal.parent)
    except OSError as error:
        if error.errno in FULL:
            raise DownloadError(
                f"the disk is full after {one.num_fetched:,} of {one.remote.num_bytes:,} bytes of"
                f" {one.goal}; make room, and the same command goes on from there"
            ) from error
        raise OutputError.of(one.goal, error) from error


def _another(one: Wanted, repository: Repository) -> DownloadError:
    """The error for whatever else is in a file's place."""
    return DownloadError(
        f"{one.goal} is there, and is not the file of {repository.name} at revision"
        f" {repository.revision[:SHOWN]}; move it away, or give --to another folder"
    )


def _size(path: Path) -> int | None:
    """Bytes of a file, links followed; None where there is none, or none that can be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _digest(path: Path, one: Wanted, tell: Tell) -> str:
    """The digest of a file, of the kind that the hub states for it.

    Git's is the SHA-1 of a header with the size and of the contents.
    """
    total = one.remote.num_bytes
    if len(one.remote.digest) == SHA256_DIGITS:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {total}\0".encode(), usedforsecurity=False)
    done = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            done += len(block)
            tell(f"checking {one.remote.path}", done, total)
    return digest.hexdigest()


class _Counted:
    """A file that tells how much of it is written."""

    def __init__(
        self, file: BinaryIO, tell: Callable[[int, int], None], remote: RemoteFile
    ) -> None:
        self._file, self._tell, self._total = file, tell, remote.num_bytes

    def write(self, data: bytes) -> int:
        """Write, and tell."""
        written = self._file.write(data)
        self._tell(self._file.tell(), self._total)
        return written

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the file has
        return getattr(self._file, name)
