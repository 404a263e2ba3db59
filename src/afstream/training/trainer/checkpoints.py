"""Checkpoints of a run on any number of processes: one folder each, whole or not there.

A folder is written under another name, then gets a list of its files and their sizes, then its
name. Whatever moment a process is killed at, the list tells whether a folder is whole; if not,
the one before is taken. The weights are torch's distributed checkpoints: each process writes
its own part, and another number of processes can read them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from afstream.errors import CheckpointError
from afstream.training.trainer.distributed import ALONE, Processes

MANIFEST = "manifest.json"
LOG = "log.jsonl"
NAME = re.compile(r"step-(\d{6,})")
KEPT = 2

# what `Trainer.state` gives: tensors within mappings, and numbers
State = Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of one stage, and its log.

    Attributes:
        log: metrics, warnings and contact sheets, JSON lines.
        processes: that share the run; all of them call every method.

    Args:
        folder: of the stage; all processes must see the same.
        processes: that share the run.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE) -> None:
        self.log = folder / LOG
        self.processes = processes
        self._folder = folder

    def save(self, step: int, state: State) -> None:
        """Write a checkpoint, and drop all but the newest two.

        Args:
            step: its name.
            state: tensors, within mappings, that may be spread over processes, and plain
                values, of which the first process's count.
        """
        goal = self._folder / f"step-{step:06}"
        partial = goal.with_suffix(".partial")
        if self.processes.is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            # left by a run that was killed
            for left in self._folder.glob("step-*.partial"):
                shutil.rmtree(left)
        self.processes.wait()
        tensors, plain = _divided(state)
        with _quiet():
            save(tensors, checkpoint_id=partial)
        self.processes.wait()
        if self.processes.is_first:
            _complete(partial, plain)
            if goal.exists():
                # torn, or the run would have resumed from it
                shutil.rmtree(goal)
            partial.rename(goal)
            _sync(self._folder)
            for old in self._found()[KEPT:]:
                shutil.rmtree(old)
        self.processes.wait()

    def load(self, state: State) -> tuple[State | None, list[str]]:
        """Read the newest whole checkpoint.

        Args:
            state: with the tensors of what was saved, which are filled in place.

        Returns:
            The state as it was saved, None where there is none; and warnings of torn ones.

        Raises:
            CheckpointError: it is of another run: it holds other weights.
        """
        found: Path | None = None
        torn: list[str] = []
        for candidate in self._found() if self.processes.is_first else []:
            fault = _fault(candidate)
            if not fault:
                found = candidate
                break
            torn.append(f"checkpoint {candidate} is torn: {fault}; the one before is used")
        found, torn = self.processes.agree((found, torn))
        if found is None:
            return None, torn
        tensors, _ = _divided(state)
        _check(found, tensors)
        with _quiet():
            load(tensors, checkpoint_id=found)
        plain = json.loads((found / MANIFEST).read_text("utf-8"))["plain"]
        return {**tensors, **plain}, torn

    @property
    def last_step(self) -> int:
        """Step of the newest whole checkpoint, 0 without one."""
        whole = (path for path in self._found() if not _fault(path))
        return next((_step(path) for path in whole), 0)

    def _found(self) -> list[Path]:
        """Folders with a checkpoint's name, newest first."""
        named = [path for path in self._folder.glob("step-*") if NAME.fullmatch(path.name)]
        return sorted(named, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _divided(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors, alone or within mappings, and plain values: what JSON holds exactly."""
    tensors = {name: value for name, value in state.items() if _flat(value)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def _flat(value: object, name: str = "") -> dict[str, Tensor]:
    """Tensors within mappings, by the name that they have in a checkpoint."""
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, Mapping):
        return {}
    return {
        full: tensor
        for key, part in value.items()
        for full, tensor in _flat(part, f"{name}.{key}" if name else str(key)).items()
    }


def _complete(folder: Path, plain: Mapping[str, Any]) -> None:
    """Add the list of files."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": sizes, "plain": plain}, file)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _fault(folder: Path) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        for name, size in sizes.items():
            there = (folder / name).stat().st_size
            if there != size:
                return f"{name} has {there} bytes of {size}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return ""


def _check(folder: Path, tensors: State) -> None:
    """See that a checkpoint has just the tensors that are wanted."""
    found: Any = FileSystemReader(folder).read_metadata()
    saved: dict[str, Any] = found.state_dict_metadata
    wanted = _flat(tensors)
    differing = sorted(saved.keys() ^ wanted.keys())
    differing += sorted(
        name for name in wanted.keys() & saved.keys() if saved[name].size != wanted[name].shape
    )
    if differing:
        raise CheckpointError(
            f"checkpoint {folder} is of another run: {len(differing)} of its weights differ in name"
            f" or shape, for example {differing[0]}; resume with the same settings, or begin in"
            " another folder"
        )


def _sync(folder: Path) -> None:
    """Make a change of names in a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Without the warning that one process saves for itself: that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*", category=UserWarning)
        yield
