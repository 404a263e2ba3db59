"""Totals of records: how often each attribute is right, and what changes within a minute."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

from pocket_oracle.oracle import READABLE, Reading
from pocket_oracle.records import Record

AIMS = {"colour": 0.95, "shape": 0.90, "motion": 0.85, "background": 0.95}
# of a normal distribution, 95 % lie within so many deviations of its mean
Z95 = 1.96
# too short for a motion
KEPT = ("colour", "shape", "background")
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

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval of 95 %; 0 to 1 of a total of 0."""
        if not self.of:
            return 0.0, 1.0
        share, spread = self.right / self.of, Z95**2 / self.of
        middle = share + spread / 2
        half = Z95 * (share * (1 - share) / self.of + spread / (4 * self.of)) ** 0.5
        return max(middle - half, 0.0) / (1 + spread), min(middle + half, 1 + spread) / (1 + spread)

    def __str__(self) -> str:
        """In percent, with both numbers and the interval."""
        if self.value is None:
            return "-"
        low, high = self.interval
        return (
            f"{100 * self.value:.1f} % ({self.right}/{self.of}; {100 * low:.0f}-{100 * high:.0f})"
        )


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
        kept: a row for each chunk behind a switch, on what its caption leaves out and what was
            right before.
        long: rows for the two ends of long streams.
        ratios: of sharpness and motion speed, in long streams.
    """

    memory: str
    streams: Mapping[str, int]
    steady: tuple[Row, ...]
    switch: tuple[Row, ...]
    kept: tuple[Row, ...]
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
        kept=_kept(kinds["switch"]),
        long=tuple(_row(f"{name} 10 s", kinds["long"], (name,)) for name in ("first", "last")),
        ratios=(
            _ratio("sharpness", ((first.sharpness, last.sharpness) for first, last in ends)),
            _ratio("motion speed", ((first.speed_px, last.speed_px) for first, last in ends)),
        ),
    )


def markdown(quality: Quality) -> str:
    """Tables: attributes, what is kept behind a switch, and the ends of long streams."""
    aims = " | ".join(f"{100 * AIMS[name]:.0f} %" for name in READABLE)
    lines = [
        f"| read | {' | '.join(READABLE)} |",
        f"|---|{'---|' * len(READABLE)}",
        f"| *aim* | {aims} |",
    ]
    for row in (*quality.steady, *quality.switch, *quality.long):
        lines.append(f"| {row.name} | {' | '.join(str(row.shares[name]) for name in READABLE)} |")
    lines += ["", f"| left out, and kept in | {' | '.join(KEPT)} |", f"|---|{'---|' * len(KEPT)}"]
    for row in quality.kept:
        lines.append(f"| {row.name} | {' | '.join(str(row.shares[name]) for name in KEPT)} |")
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
    partial = _partial(records)

    def named(record: Record, attribute: str) -> bool:
        return attribute in record.told

    def left_out(record: Record, attribute: str) -> bool:
        return attribute not in record.told

    after = ("after",)
    return (
        _row("before a switch", records, ("before",)),
        _row("after a switch, full caption", full, after),
        _row("after a switch, under-specified caption", partial, after),
        _row("… what it names", partial, after, named),
        _row("… what it leaves out", partial, after, left_out),
        _row("… what it leaves out and was right before", partial, after, _remembered),
    )


def _kept(records: Sequence[Record]) -> tuple[Row, ...]:
    chunks = [name for name in (records[0].readings if records else ()) if "chunk" in name]
    rows = [_row(name, _partial(records), (name,), _remembered) for name in chunks]
    return tuple(replace(row, shares={it: row.shares[it] for it in KEPT}) for row in rows)


def _partial(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if len(record.told) < len(READABLE)]


def _remembered(record: Record, attribute: str) -> bool:
    """Whether a caption leaves out what was right before."""
    return attribute not in record.told and record.right("before", attribute)


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
