"""Plays cases and keeps what the oracle reads: one line of JSON a stream, written at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from afstream.timeline import Timeline
from pocket_oracle.cases import Case
from pocket_oracle.oracle import Oracle, Reading, attributes

Report = Callable[["Record"], None]


class VideoChunk(Protocol):
    """A chunk of video."""

    @property
    def frames(self) -> NDArray[np.uint8]:
        """[N, H, W, 3]."""
        ...


class Player(Protocol):
    """Anything that plays a timeline, such as `afstream.stream.Stream`."""

    def play(self, timeline: Timeline, /) -> Iterator[VideoChunk]:
        """The video, chunk by chunk."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was read from one stream.

    Attributes:
        model: hash of the model that made it.
        memory: name of its memory.
        kind: of case.
        index: of its kind.
        timeline: the stream's prompts, as text.
        told: readable attributes that the last caption names.
        expected: for each window, the attributes that it should show.
        readings: for each window, what it shows.
    """

    model: str
    memory: str
    kind: str
    index: int
    timeline: str
    told: tuple[str, ...]
    expected: Mapping[str, Mapping[str, str]]
    readings: Mapping[str, Reading]

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What identifies it; its windows follow from the timeline."""
        return self.model, self.memory, self.kind, self.index, self.timeline

    def right(self, window: str, attribute: str) -> bool:
        """Whether a window shows an attribute as it should."""
        return self.readings[window].shown[attribute] == self.expected[window][attribute]

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read what `json.dumps(asdict(record))` wrote."""
        content: dict[str, Any] = json.loads(line)
        readings = {name: Reading(**values) for name, values in content.pop("readings").items()}
        return cls(told=tuple(content.pop("told")), readings=readings, **content)


class RecordBook:
    """A folder of records: each process writes its own file and reads all files.

    Args:
        folder: created if it is missing.
        name: of this process's own file.
    """

    def __init__(self, folder: Path, name: str = "records") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = folder / f"{name}.jsonl"

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_text().splitlines(keepends=True):
                # a process that was killed may have left half a line
                if line.endswith("}\n"):
                    yield Record.from_json(line)

    def add(self, record: Record) -> None:
        """Append one record to this process's file."""
        torn = self._own.is_file() and not self._own.read_bytes().endswith(b"\n")
        with self._own.open("a") as file:
            file.write("\n" if torn and self._own.stat().st_size else "")
            file.write(json.dumps(asdict(record)) + "\n")


def measure(
    cases: Iterable[Case],
    open_player: Callable[[int], Player],
    book: RecordBook,
    *,
    model: str,
    memory: str,
    report: Report = lambda _: None,
) -> None:
    """Play every case that has no record yet, and add what the oracle reads.

    Args:
        cases: the cases to play.
        open_player: makes a fresh stream from a seed of the noise.
        book: holds the records.
        model: name in the records; different for each set of weights.
        memory: name in the records.
        report: called with every new record.
    """
    done = {record.key for record in book}
    for case in cases:
        timeline = str(case.timeline)
        if (model, memory, case.kind, case.index, timeline) in done:
            continue
        oracle = Oracle()
        for chunk in open_player(case.seed).play(case.timeline):
            oracle.watch(chunk.frames)
        record = Record(
            model=model,
            memory=memory,
            kind=case.kind,
            index=case.index,
            timeline=timeline,
            told=tuple(sorted(case.told)),
            expected={name: attributes(case.expected(name)) for name in case.windows},
            readings={name: oracle.read(*window) for name, window in case.windows.items()},
        )
        book.add(record)
        report(record)
