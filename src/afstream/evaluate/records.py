"""Playing cases and keeping what was read, one line a stream, so that nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from afstream.evaluate.cases import Case
from afstream.evaluate.oracle import Oracle, Reading, attributes
from afstream.timeline import Timeline

Report = Callable[["Record"], None]


class Pictures(Protocol):
    """A chunk of video."""

    @property
    def frames(self) -> NDArray[np.uint8]:
        """[N, H, W, 3]."""
        ...


class Player(Protocol):
    """What can play a timeline; `afstream.stream.Stream` is one."""

    def play(self, timeline: Timeline, /) -> Iterator[Pictures]:
        """The video, chunk by chunk."""
        ...


class Key(NamedTuple):
    """What tells records apart; the windows follow from the timeline."""

    model: str
    memory: str
    kind: str
    number: int
    timeline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was read from one stream.

    Attributes:
        model: which model made it.
        memory: with which memory.
        kind: of case.
        index: of its kind.
        timeline: what the stream was told, as text.
        told: readable attributes that the last caption speaks of.
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
    def key(self) -> Key:
        """What tells it apart from other records."""
        return Key(self.model, self.memory, self.kind, self.index, self.timeline)

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
    """A folder of records: every process writes its own file and reads those of all.

    Args:
        folder: made if it is not there.
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
        """Write one record; it survives whatever happens next."""
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
    """Play every case that the book does not have yet, and add what the oracle reads.

    Args:
        cases: what to play.
        open_player: gives a fresh stream for a seed of the noise.
        book: holds the records.
        model: name for the records; a model of other weights needs another.
        memory: name for the records.
        report: called with every new record.
    """
    done = {record.key for record in book}
    for case in cases:
        key = Key(model, memory, case.kind, case.index, str(case.timeline))
        if key not in done:
            record = _play(case, open_player(case.seed), key)
            book.add(record)
            report(record)


def _play(case: Case, player: Player, key: Key) -> Record:
    oracle = Oracle()
    for chunk in player.play(case.timeline):
        oracle.watch(chunk.frames)
    return Record(
        model=key.model,
        memory=key.memory,
        kind=key.kind,
        index=key.number,
        timeline=key.timeline,
        told=tuple(sorted(case.told)),
        expected={name: attributes(case.expected(name)) for name in case.windows},
        readings={name: oracle.read(*window) for name, window in case.windows.items()},
    )
