"""Backbone weights from one file: a student of any of the public recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from afstream.model.checkpoints.names import wan_name
from afstream.model.files import named_tensors
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
    known = content if isinstance(content, dict) else {}
    entry = next((name for name in ENTRIES if known.get(name)), "")
    wanted = f"a student, which holds weights by name, or one of {', '.join(ENTRIES)}"
    weights = named_tensors(known[entry] if entry else content, path, wanted=wanted)
    return Student(path=path, entry=entry, weights=in_wan_names(weights))


def in_wan_names(weights: Weights) -> Weights:
    """Weights under Wan's names."""
    return {wan_name(str(name)): value for name, value in weights.items()}
