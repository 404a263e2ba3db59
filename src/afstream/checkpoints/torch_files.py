"""Files that `torch.save` wrote, read as plain data: nothing in them runs, or fills memory.

torch unpickles such a file with a short list of what it may build. What it does not look at is how
large everything becomes, so the file's list of records is checked before torch opens it.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from afstream.bounded import MB
from afstream.validation import show_name

# of the pickle: a byte may become an object of 200, and a tensor takes about 120 bytes of it
MAX_PICKLE_BYTES = 1_200_000
# of the list of records, about 80 bytes each
MAX_LIST_BYTES = 2_000_000
# an archive ends with this, and with as many bytes as begin so
END, END_BYTES = b"PK\5\6", 22
PICKLE = "data.pkl"
# what zipfile raises for numbers that no archive has
BAD_NUMBERS = (struct.error, OverflowError)
VALUES = re.compile(r"[^/]+/data/[^/]+")
# in torch's error: the object that a pickle wants to build
WANTED = re.compile(r"\bGLOBAL (\S+)")
# torch lets a pickle call these: one fills memory, the other takes for ever with some codecs
REFUSED = (b"bytearray", b"_codecs")
# what a pickle calls: opcode, module and name; modules of such as stand in every file
CALL = re.compile(rb"c([\w.]{1,200})\n([\w.]{1,200})\n", re.ASCII)
OFTEN = ("torch", "collections", "_codecs")


class ListReader(io.BufferedReader):
    """A file whose list of records cannot be larger than is sensible; values are not read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; `ValueError` where too much is asked for."""
        if size is not None and size > MAX_LIST_BYTES:
            raise ValueError("it holds too many records")
        return super().read(size)


class PickleReader(io.BufferedReader):
    """A file of pickles, and then values, of which only the values may be large.

    Pickles are read by `read` and `readline`; torch reads values past this class.
    """

    _left = MAX_PICKLE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; `ValueError` where the pickles are too large."""
        return self._counted(super().read(self._most(size)))

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line; `ValueError` where the pickles are too large."""
        return self._counted(super().readline(self._most(size)))

    def peek_pickles(self) -> bytes:
        """Everything that may be pickles; reading begins anew."""
        found = super().read(MAX_PICKLE_BYTES)
        self.seek(0)
        return found

    def _most(self, size: int | None) -> int:
        return self._left + 1 if size is None or size < 0 else min(size, self._left + 1)

    def _counted(self, found: bytes) -> bytes:
        self._left -= len(found)
        if self._left < 0:
            raise ValueError(f"its pickles have more than {MAX_PICKLE_BYTES / MB:g} MB")
        return found


def read_torch(path: Path) -> Any:  # noqa: ANN401  a file may hold anything
    """What a file holds; its tensors are views of it.

    Raises:
        ValueError: it is damaged, made to hurt, or holds what could run code; says which.
        OSError: it cannot be read.
    """
    check_records(path)
    with _other_name(path) as name:
        return _loaded(name, mmap=True)


def read_old_torch(path: Path) -> Any:  # noqa: ANN401  a file may hold anything
    """What a file of torch before 1.6 holds, pickles and then values; all of it is in memory.

    Raises what `read_torch` raises.
    """
    with PickleReader(io.FileIO(path)) as file:
        _check_pickle(file.peek_pickles())
        return _loaded(file)


def _loaded(file: Path | PickleReader, *, mmap: bool = False) -> Any:  # noqa: ANN401
    try:
        with warnings.catch_warnings():
            # what torch finds odd is refused or harmless, and no user can do anything about it
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        found = WANTED.search(str(error))
        raise _could_run_code(found[1] if found else "") from error
    # what torch raises for a bad file has no common base
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(reason) from error


@contextmanager
def _other_name(path: Path) -> Generator[Path]:
    """A name of the file that torch does not take for safetensors, which it tells by the suffix."""
    if path.suffix != ".safetensors":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "weights.pt")
        link.symlink_to(path.resolve())
        yield link


def check_records(path: Path) -> None:
    """See that records are stored as `torch.save` stores them, and that the pickle is small.

    Raises:
        ValueError: they are not; says how.
        OSError: the file cannot be read.
    """
    with ListReader(io.FileIO(path)) as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is cut short, or not what torch.save writes")
        # torch may find another list of records where something stands behind it
        file.seek(-END_BYTES, os.SEEK_END)
        if not file.read().startswith(END):
            raise ValueError("something stands behind its list of records")
        try:
            with zipfile.ZipFile(file) as archive:
                _check(archive)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, *BAD_NUMBERS) as error:
            raise ValueError("its list of records is damaged") from error


def _check(archive: zipfile.ZipFile) -> None:
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise ValueError("it is compressed, which torch.save never does")
        if VALUES.fullmatch(record.filename):
            continue
        if record.file_size > MAX_PICKLE_BYTES:
            raise ValueError(
                f"its {record.filename} has {record.file_size / MB:.1f} MB, of"
                f" {MAX_PICKLE_BYTES / MB:g} allowed"
            )
        if record.filename.endswith(PICKLE):
            _check_pickle(archive.read(record))


def _check_pickle(content: bytes) -> None:
    if any(word in content for word in REFUSED):
        named = (f"{one[1].decode()}.{one[2].decode()}" for one in CALL.finditer(content))
        # what NumPy's numbers, say, are made with is theirs only by the way
        raise _could_run_code(next((one for one in named if not one.startswith(OFTEN)), ""))


def _could_run_code(name: str) -> ValueError:
    named = f", {show_name(name)}" if name else ""
    return ValueError(f"it holds Python objects that could run code{named}")
