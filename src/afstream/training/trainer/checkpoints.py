"""The folder of a training stage: its log, and checkpoints that are whole or not there.

A checkpoint is written under another name, then gets a list of its files and their checksums, then
its name. Whatever moment a process is killed at, and whatever bit of the disk turns over, the list
tells whether a folder is as it was written; if not, the one before is taken. The weights are
torch's distributed checkpoints: each process writes its own part, and another number of processes
can read them.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from afstream.atomic import sync_folder
from afstream.checkpoints.finite import LARGEST, first_not_finite
from afstream.errors import CheckpointError, OutputError, TrainingError, reason_of
from afstream.training.trainer.distributed import ALONE, Processes, local_part
from afstream.training.trainer.log import StageLog
from afstream.training.trainer.manifest import (
    EarlierError,
    ListingWriter,
    Manifest,
    PlainReader,
    content_fault,
    read_manifest,
    size_fault,
    write_manifest,
    written,
)
from afstream.training.trainer.state import State, check_same, divided, flat

NAME = re.compile(r"step-(\d{6,12})")
# besides the newest, one that a fault of the disk leaves, and one from before what went wrong
KEPT = 3
# of one that a run must not go on from
ASIDE = ".aside"


class CheckpointStore:
    """The checkpoints of one stage, and its log.

    All processes of a run must see the same folder, and all of them call every method.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE) -> None:
        self.folder = folder
        self.log = StageLog(folder, processes)
        self.processes = processes

    def save(self, step: int, state: State) -> None:
        """Write the checkpoint of a step, and drop all but the newest three.

        The state is tensors, within mappings, that may be spread over processes, and plain values,
        of which the first process's count.

        Raises:
            TrainingError: a tensor holds values that are not finite; nothing is written.
            OutputError: the system refuses; nothing is left of it, and the others are as they were.
        """
        tensors, plain = divided(state)
        if lost := self._lost(tensors):
            raise TrainingError(
                f"step {step} is not saved: {lost} holds values that are not finite;"
                f" {self._remedy()}"
            )
        goal = self.folder / f"step-{step:06}"
        partial = goal.with_suffix(".partial")
        fault = ""
        if self.processes.is_first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                # left by a run that was killed
                for left in self.folder.glob("step-*.partial"):
                    shutil.rmtree(left)
            except OSError as error:
                fault = _refused(partial, error)
        self.processes.refuse(fault, OutputError)
        files, metadata, fault = self._write(partial, tensors)
        told = next(filter(None, self.processes.each(fault)), "")
        if self.processes.is_first and not told:
            try:
                write_manifest(partial, files, metadata, plain)
                if goal.exists():
                    # torn, or the run would have resumed from it
                    shutil.rmtree(goal)
                partial.rename(goal)
                sync_folder(self.folder)
                self._drop(step)
            except (OSError, OutputError) as error:
                told = _refused(partial, error)
        if self.processes.is_first and told:
            shutil.rmtree(partial, ignore_errors=True)
        self.processes.refuse(told, OutputError)

    def load(self, state: State) -> tuple[State | None, list[str]]:
        """Read the newest whole checkpoint, filling the tensors of `state` in place.

        Returns:
            The state as it was saved, None where there is none; and warnings of torn ones.

        Raises:
            CheckpointError: it is of another run: it holds other weights; or of an earlier
                afstream; or there are only some that hold values that are not finite.
        """
        told: list[str] = []
        tensors, plain = divided(state)
        is_filled, fault = False, ""
        for folder in self.processes.agree(self.found()):
            manifest, fault = self._checked(folder)
            if manifest:
                check_same(folder, manifest, tensors, plain)
                fault, is_filled = self._read(folder, manifest, tensors), True
                if not fault:
                    return {**tensors, **manifest.plain}, told
            told.append(f"checkpoint {folder} is torn: {fault}; the one before is used")
        if is_filled:
            # the trainer holds what was read, so it cannot begin anew
            raise CheckpointError(
                f"{self.folder} has no checkpoint that can be used ({fault}); remove this folder to"
                " begin the stage again"
            )
        old = self.folder.with_name(f"{self.folder.name}.checkpoint")
        self.processes.refuse(_earlier(old) if old.is_file() else "", CheckpointError)
        return None, told

    def set_aside(self, step: int) -> list[str]:
        """Rename checkpoints of a step and later ones, where there is an earlier one; warnings.

        A run then goes on from the earlier one.
        """
        told: list[str] = []
        found = self.found() if self.processes.is_first else []
        for folder in found:
            if _step(folder) >= step > _step(found[-1]):
                with suppress(OSError):
                    folder.rename(folder.with_suffix(ASIDE))
                    told.append(f"{folder} is set aside: no step after it came out with numbers")
        return self.processes.agree(told)

    @property
    def last_step(self) -> int:
        """Step of the newest checkpoint whose files have their sizes, 0 without one."""
        for folder in self.found():
            try:
                if not size_fault(folder, read_manifest(folder)):
                    return _step(folder)
            except CheckpointError:
                continue
        return 0

    @property
    def checked_step(self) -> int:
        """Step of the newest checkpoint that is as it was written, 0 without one."""
        return next((_step(path) for path in self.found() if self._checked(path)[0]), 0)

    def found(self) -> list[Path]:
        """Folders with a checkpoint's name, newest first."""
        try:
            named = [path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name)]
        except OSError:
            return []
        return sorted(named, key=_step, reverse=True)

    def _write(self, partial: Path, tensors: State) -> tuple[dict[str, Any], Metadata, str]:
        """Write the tensors; all files with their checksums, torch's list, what went wrong."""
        fault, mine, metadata = "", {}, Metadata({})
        try:
            with _quiet():
                writer = ListingWriter(partial)
                metadata = save(dict(tensors), storage_writer=writer)
                metadata.storage_data = writer.places
            mine = written(partial, self.processes.rank)
        except CheckpointException as error:
            fault = _refused(partial, _cause(error))
        except OSError as error:
            fault = _refused(partial, error)
        files: dict[str, Any] = {}
        for some in self.processes.each(mine):
            files |= some
        return files, metadata, fault

    def _checked(self, folder: Path) -> tuple[Manifest | None, str]:
        """The manifest of a folder that is as it was written, or what is wrong with it."""
        manifest, fault, earlier = None, "", ""
        if self.processes.is_first:
            try:
                manifest = read_manifest(folder)
                fault = size_fault(folder, manifest)
            except EarlierError:
                earlier = _earlier(folder)
            except CheckpointError as error:
                fault = str(error)
        self.processes.refuse(earlier, CheckpointError)
        manifest, fault = self.processes.agree((manifest, fault))
        if manifest and not fault:
            # the files are read by all processes together
            mine = sorted(manifest.files)[self.processes.rank :: self.processes.count]
            faults = self.processes.each(content_fault(folder, manifest, mine))
            fault = next(filter(None, faults), "")
        return (None if fault else manifest), fault

    def _read(self, folder: Path, manifest: Manifest, tensors: State) -> str:
        """Fill the tensors; what went wrong in any process."""
        fault = ""
        try:
            with _quiet():
                load(dict(tensors), storage_reader=PlainReader(folder, manifest))
        except CheckpointException as error:
            fault = f"it cannot be read ({_words(_cause(error))})"
        fault = next(filter(None, self.processes.each(fault)), "")
        if not fault and (lost := self._lost(tensors)):
            fault = f"{lost} holds values that are not finite"
        return fault

    def _lost(self, tensors: State) -> str:
        """The first tensor that is not finite in any process; all give the same."""
        parts = {name: local_part(tensor) for name, tensor in flat(tensors).items()}
        found = set(
            filter(None, self.processes.each(first_not_finite(parts.items(), bound=LARGEST)))
        )
        return next((name for name in parts if name in found), "")

    def _remedy(self) -> str:
        """What to do where a step has come out wrong."""
        again = "with --resume --accept-changes"
        if step := self.processes.agree(self.last_step):
            return f"lower the learning rates, and go on from step {step}, the last saved, {again}"
        return f"lower the learning rates, and begin the stage again {again}"

    def _drop(self, step: int) -> None:
        """Remove what is older than the newest few, and what a run that began further back left."""
        found = self.found()
        later = [folder for folder in found if _step(folder) > step]
        aside = self.folder.glob(f"step-*{ASIDE}")
        for folder in (*later, *found[len(later) + KEPT :], *aside):
            shutil.rmtree(folder)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _earlier(path: Path) -> str:
    """The sentence for a checkpoint that cannot be checked."""
    return (
        f"checkpoint {path} is of an earlier afstream, which kept no checksums; finish the run with"
        " that one, or remove it to begin the stage again"
    )


def _cause(error: CheckpointException) -> BaseException:
    """What one of the processes met; an interruption is raised as what it is."""
    found = [cause for cause, _ in error.failures.values()]
    for cause in found:
        if not isinstance(cause, Exception):
            raise cause from None
    return found[0]


def _words(error: BaseException) -> str:
    """A system's error or torch's in a few words."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError):
            return reason_of(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error).partition("\n")[0] or type(error).__name__


def _refused(partial: Path, error: BaseException) -> str:
    """The sentence for a checkpoint that cannot be written."""
    if isinstance(error, OutputError):
        return str(error)
    return (
        f"checkpoint {partial.with_suffix('')} cannot be written ({_words(error)}); the ones before"
        " it are as they were: make room, and go on with --resume"
    )


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Silence torch's warning that a single process saves, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*", category=UserWarning)
        yield
