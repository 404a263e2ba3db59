"""The folder of a training stage: its log, and checkpoints that are whole or not there.

A checkpoint is written under another name, then gets a list of its files and their sizes, then its
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
from collections.abc import Callable, Generator, Mapping
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
# called with what a run has to tell: metrics of a step, a warning, a sheet
Report = Callable[[Mapping[str, Any]], None]


class CheckpointStore:
    """The checkpoints of one stage, and its log: metrics, warnings and contact sheets, JSON lines.

    All processes of a run must see the same folder, and all of them call every method.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE) -> None:
        self.folder = folder
        self.log = folder / LOG
        self.processes = processes

    def tell(self, entry: Mapping[str, Any], report: Report) -> None:
        """Add an entry to the log and report it, in the first process."""
        if self.processes.is_first:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            report(entry)

    def cut_log(self, step: int) -> None:
        """Remove log entries after a step, and a half-written one; make the stage's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.log.is_file():
            lines = self.log.read_text("utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            partial = self.log.with_suffix(".partial")
            partial.write_text("".join(kept), "utf-8")
            partial.replace(self.log)

    def save(self, step: int, state: State) -> None:
        """Write the checkpoint of a step, and drop all but the newest two.

        The state is tensors, within mappings, that may be spread over processes, and plain values,
        of which the first process's count.
        """
        goal = self.folder / f"step-{step:06}"
        partial = goal.with_suffix(".partial")
        if self.processes.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            # left by a run that was killed
            for left in self.folder.glob("step-*.partial"):
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
            _sync(self.folder)
            for old in self._found()[KEPT:]:
                shutil.rmtree(old)
        self.processes.wait()

    def load(self, state: State) -> tuple[State | None, list[str]]:
        """Read the newest whole checkpoint, filling the tensors of `state` in place.

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
        named = [path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name)]
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
    found: dict[str, Tensor] = {}
    for key, part in value.items() if isinstance(value, Mapping) else ():
        found |= _flat(part, f"{name}.{key}" if name else str(key))
    return found


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
    """Refuse a checkpoint whose tensors differ from those wanted in name or shape."""
    metadata: Any = FileSystemReader(folder).read_metadata()
    saved = {name: tuple(each.size) for name, each in metadata.state_dict_metadata.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in _flat(tensors).items()}
    differing = sorted(saved.keys() ^ wanted.keys())
    differing += sorted(name for name in wanted.keys() & saved if saved[name] != wanted[name])
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
    """Silence torch's warning that a single process saves, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*", category=UserWarning)
        yield
