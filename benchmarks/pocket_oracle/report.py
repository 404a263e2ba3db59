"""Totals of records: how often each attribute is right, and what changes within a minute."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from pocket_oracle.oracle import READABLE, Reading
from pocket_oracle.records import Record

AIMS = {"colour": 0.95, "shape": 0.90, "motion": 0.85, "background": 0.95}
# the last 10 s of a minute may differ from the first by this share
RATIO_AIM = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A count out of a total."""

    right: int
    of: int

    @property
    def value(self) -> float | None:
        """The share; None of a total of 0."""
        return self.right / self.of if self.of else None

    def __str__(self) -> str:
        """In percent, with both numbers."""
        return "-" if self.value is None else f"{100 * self.value:.1f} % ({self.right}/{self.of})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How often each of `READABLE` is right in one kind of window."""

    name: str
    shares: Mapping[str, Share]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The last 10 s of long streams over their first 10 s.

    Attributes:
        name: what was measured.
        median: over the streams in which it could be measured at both ends.
        low: smallest ratio.
        high: largest ratio.
        within: streams whose ratio differs from 1 by at most `RATIO_AIM`, out of all, so that a
            stream whose subject was lost counts as missed.
    """

    name: str
    median: float | None
    low: float | None
    high: float | None
    within: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Scores of one model with one memory.

    Attributes:
        memory: its name.
        streams: number of streams of each kind.
        steady: rows for windows of streams with one prompt.
        switch: rows for windows before and after a switch.
        long: rows for the two ends of long streams.
        ratios: of sharpness and motion speed, in long streams.
    """

    memory: str
    streams: Mapping[str, int]
    steady: tuple[Row, ...]
    switch: tuple[Row, ...]
    long: tuple[Row, ...]
    ratios: tuple[Ratio, ...]

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(asdict(self), indent=2)


def summarise(records: Iterable[Record], *, memory: str) -> Quality:
    """Add up the records of one memory; they should be of one model."""
    kinds: dict[str, list[Record]] = {"steady": [], "switch": [], "long": []}
    for record in records:
        if record.memory == memory:
            kinds[record.kind].append(record)
    ends = [_ends(record) for record in kinds["long"]]
    return Quality(
        memory=memory,
        streams={kind: len(found) for kind, found in kinds.items()},
        steady=_steady(kinds["steady"]),
        switch=_switch(kinds["switch"]),
        long=tuple(_row(f"{name} 10 s", kinds["long"], (name,)) for name in ("first", "last")),
        ratios=(
            _ratio("sharpness", ((first.sharpness, last.sharpness) for first, last in ends)),
            _ratio("motion speed", ((first.speed_px, last.speed_px) for first, last in ends)),
        ),
    )


def markdown(quality: Quality) -> str:
    """Two tables: attributes, and the ends of long streams."""
    aims = " | ".join(f"{100 * AIMS[name]:.0f} %" for name in READABLE)
    lines = [
        f"| read | {' | '.join(READABLE)} |",
        f"|---|{'---|' * len(READABLE)}",
        f"| *aim* | {aims} |",
    ]
    for row in (*quality.steady, *quality.switch, *quality.long):
        lines.append(f"| {row.name} | {' | '.join(str(row.shares[name]) for name in READABLE)} |")
    within = f"within {100 * RATIO_AIM:.0f} %"
    lines += ["", f"| last 10 s / first 10 s | median | range | {within} |", "|---|---|---|---|"]
    for ratio in quality.ratios:
        span = f"{_number(ratio.low)} - {_number(ratio.high)}"
        lines.append(f"| {ratio.name} | {_number(ratio.median)} | {span} | {ratio.within} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _row(
    name: str,
    records: Sequence[Record],
    windows: Sequence[str],
    counts: Callable[[Record, str], bool] = lambda _record, _attribute: True,
) -> Row:
    """Add up windows of records, each attribute where it `counts`."""
    shares: dict[str, Share] = {}
    for attribute in READABLE:
        right = [
            record.right(window, attribute)
            for record in records
            for window in windows
            if counts(record, attribute)
        ]
        shares[attribute] = Share(right=sum(right), of=len(right))
    return Row(name=name, shares=shares)


def _steady(records: Sequence[Record]) -> tuple[Row, ...]:
    """All windows by themselves, and those between `whole` together."""
    windows = list(records[0].readings) if records else []
    parts = [name for name in windows if name != "whole"]
    return (
        _row("from 3 s to the end", records, [name for name in windows if name == "whole"]),
        _row("every 5 s", records, parts),
        *(_row(name, records, (name,)) for name in parts),
    )


def _switch(records: Sequence[Record]) -> tuple[Row, ...]:
    full = [record for record in records if len(record.told) == len(READABLE)]
    partial = [record for record in records if len(record.told) < len(READABLE)]

    def named(record: Record, attribute: str) -> bool:
        return attribute in record.told

    def left_out(record: Record, attribute: str) -> bool:
        return attribute not in record.told

    def remembered(record: Record, attribute: str) -> bool:
        return attribute not in record.told and record.right("before", attribute)

    after = ("after",)
    return (
        _row("before a switch", records, ("before",)),
        _row("after a switch, full caption", full, after),
        _row("after a switch, under-specified caption", partial, after),
        _row("… what it names", partial, after, named),
        _row("… what it leaves out", partial, after, left_out),
        _row("… what it leaves out and was right before", partial, after, remembered),
    )


def _ends(record: Record) -> tuple[Reading, Reading]:
    return record.readings["first"], record.readings["last"]


def _ratio(name: str, ends: Iterable[tuple[float | None, float | None]]) -> Ratio:
    pairs = list(ends)
    ratios = sorted(last / first for first, last in pairs if first and last is not None)
    near = sum(abs(ratio - 1) <= RATIO_AIM for ratio in ratios)
    return Ratio(
        name=name,
        median=median(ratios) if ratios else None,
        low=ratios[0] if ratios else None,
        high=ratios[-1] if ratios else None,
        within=Share(right=near, of=len(pairs)),
    )
