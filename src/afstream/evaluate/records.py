"""Playing cases and keeping what was read, one line a stream, so that nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from afstream.evaluate.cases import Case
from afstream.evaluate.oracle import READABLE, Oracle, Reading
from afstream.timeline import Timeline


class Pictures(Protocol):
    """A chunk of video."""

    @property
    def frames(self) -> NDArray[np.uint8]:
        """[N, H, W, 3]."""
        ...


class Player(Protocol):
    """A stream that can play a timeline; `afstream.stream.Stream` is one."""

    def play(self, timeline: Timeline, /) -> Iterator[Pictures]:
        """The video, chunk by chunk."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was read from one stream.

    Attributes:
        model: which model made it.
        memory: with which memory.
        kind: of case.
        index: of its kind.
        prompts: what it was told.
        told: attributes that the last caption speaks of.
        expected: for each window, the attributes it should show.
        readings: for each window, what it shows.
    """

    model: str
    memory: str
    kind: str
    index: int
    prompts: tuple[str, ...]
    told: tuple[str, ...]
    expected: Mapping[str, Mapping[str, str]]
    readings: Mapping[str, Reading]

    @property
    def key(self) -> tuple[str, str, str, int, tuple[str, ...]]:
        """What makes two records the same; prompts and windows follow from the sizes."""
        return self.model, self.memory, self.kind, self.index, (*self.prompts, *self.readings)

    def right(self, window: str, attribute: str) -> bool:
        """Whether a window shows an attribute as it should."""
        shown = getattr_of(self.readings[window], attribute)
        return shown == self.expected[window][attribute]

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read what `json.dumps(asdict(record))` wrote."""
        content: dict[str, Any] = json.loads(line)
        readings = {name: Reading(**values) for name, values in content.pop("readings").items()}
        prompts, told = tuple(content.pop("prompts")), tuple(content.pop("told"))
        return cls(prompts=prompts, told=told, readings=readings, **content)
