"""Backbone weights from one file: a student of any of the public recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from afstream.errors import CheckpointError
from afstream.model.checkpoints.names import wan_name
from afstream.model.weights import Weights, read_weights

# the moving average of the weights first: it makes the better pictures
ENTRIES = ("generator_ema", "generator")
MOVING_AVERAGE = ENTRIES[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """Weights of a backbone, and where they come from.

    Attributes:
        path: the file.
        entry: which of `ENTRIES` was taken; empty when the file holds nothing but weights.
        weights: under Wan's names, views of the file.
    """

    path: Path
    entry: str
    weights: Weights

    def describe(self) -> str:
        """The file's name, and which of its weights were taken."""
        if not self.entry:
            return self.path.name
        average = ", the moving average" if self.entry == MOVING_AVERAGE else ""
        return f"{self.path.name} ({self.entry}{average})"


def read_student(path: Path) -> Student:
    """Read a student: weights directly, or a dict with `generator_ema` and/or `generator`.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds something else.
    """
    content = read_weights(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds {type(content).__name__}; a student holds weights by name, or one of"
            f" {', '.join(ENTRIES)}"
        )
    entry = next((name for name in ENTRIES if content.get(name)), "")
    return Student(
        path=path, entry=entry, weights=named_weights(content[entry] if entry else content, path)
    )


def named_weights(content: Any, path: Path) -> Weights:  # noqa: ANN401  straight from a file
    """Weights under Wan's names.

    Raises:
        CheckpointError: there is anything but tensors, or nothing at all.
    """
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no weights; give a checkpoint that does")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path} holds {others[0]!r}, which is no tensor; a student holds weights by name, or"
            f" one of {', '.join(ENTRIES)}"
        )
    return {wan_name(str(name)): value for name, value in content.items()}
