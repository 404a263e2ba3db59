"""One operation: checked, then timed beside its alternatives."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from afstream.bench.kernels.case import GIGA, MS, TERA, KernelCase, KernelSettings, Outputs
from afstream.bench.kernels.ceilings import H200, Ceilings
from afstream.bench.kernels.check import worst_error
from afstream.bench.kernels.predictions import predicted
from afstream.bench.kernels.report import CaseResult, KernelRow
from afstream.bench.kernels.timing import Timer, Timing

INTERPRETED = "Triton's interpreter: checked, not timed"
# A compiler's message can fill pages.
LONGEST_NOTE = 200
# What torch says whenever an attention backend refuses; the reason stands beside it, if at all.
EMPTY = re.compile(r"No (available kernel|viable backend)|runtime disabled|not used because:")
TRIGGERED = re.compile(r" *\(Triggered internally at .*")


class CaseRun:
    """Checks and times the implementations of one operation.

    Args:
        case: the operation.
        settings: what it was made for.
        timer: None checks only.
        ceilings: as measured; None where nothing was.
        alternatives: run what one would run without us, too.
    """

    def __init__(
        self,
        case: KernelCase[Any],
        settings: KernelSettings,
        timer: Timer | None,
        ceilings: Ceilings | None,
        *,
        alternatives: bool,
    ) -> None:
        self._case = case
        self._settings = settings
        self._timer = timer
        self._floor_ms = None if ceilings is None else case.work.floor_ms(ceilings)
        self._alternatives = case.alternatives if alternatives else {}
        self._first_ms: float | None = None

    @property
    def count(self) -> int:
        """Implementations to come."""
        return len(self._case.ops) + len(self._alternatives)

    def result(self, tell: Callable[[str], None]) -> CaseResult:
        """Run all; `tell` is called with the name of each that is done."""
        case, rows = self._case, list[KernelRow]()
        for row in self._rows():
            rows.append(row)
            tell(row.name)
        return CaseResult(
            name=case.name,
            about=case.about,
            tolerance=case.tolerance,
            flops=case.work.flops,
            moved_bytes=case.work.moved_bytes,
            floor_ms=self._floor_ms,
            h200_floor_ms=case.work.floor_ms(H200),
            rows=tuple(rows),
        )

    def _rows(self) -> Iterator[KernelRow]:
        try:
            inputs = self._case.make_inputs()
            expected = self._case.expected(inputs)
        except Exception as error:  # noqa: BLE001  the other operations can still be measured
            yield from self._without_inputs(error)
            return
        for name, run in self._case.ops.items():
            yield self._row(name, run, inputs, expected, ours=True)
        for name, run in self._alternatives.items():
            yield self._row(name, run, inputs, expected, ours=False)

    def _without_inputs(self, error: Exception) -> Iterator[KernelRow]:
        note = "no inputs: " + in_words(error)
        for name in self._case.ops:
            yield KernelRow(name=name, ours=True, status="failed", note=note)
        for name in self._alternatives:
            yield KernelRow(name=name, ours=False, status="unavailable", note=note)

    def _row(
        self,
        name: str,
        run: Callable[[Any], Outputs],
        inputs: Any,  # noqa: ANN401  what the case made
        expected: Outputs,
        *,
        ours: bool,
    ) -> KernelRow:
        case = self._case
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                case.poison(inputs)
                error = worst_error(run(inputs), expected)
                right = error <= case.tolerance
                timer = self._timer if right else None
                timing = None if timer is None else timer.time(lambda: run(inputs))
            except Exception as reason:  # noqa: BLE001  whatever an implementation raises
                note = in_words(reason, *(str(warning.message) for warning in told))
                status = "failed" if ours else "unavailable"
                return KernelRow(name=name, ours=ours, status=status, note=note)
        if timing is None:
            note = INTERPRETED if right else wrong_in_words(error, case.tolerance)
            status = "checked" if right else "wrong"
            return KernelRow(name=name, ours=ours, status=status, error=error, note=note)
        return self._timed_row(name, timing, error, ours=ours)

    def _timed_row(self, name: str, timing: Timing, error: float, *, ours: bool) -> KernelRow:
        case, ms = self._case, timing.median_ms
        if name == next(iter(case.ops)):
            self._first_ms = ms
        flops, moved = case.work.flops, case.work.moved_bytes
        return KernelRow(
            name=name,
            ours=ours,
            status="timed",
            error=error,
            timing=timing,
            tflops=MS * flops / ms / TERA if flops else None,
            gb_per_s=MS * moved / ms / GIGA,
            share_of_floor=None if self._floor_ms is None else self._floor_ms / ms,
            times_ours=None if self._first_ms is None else ms / self._first_ms,
            prediction=predicted(self._settings.shape, case.name, name),
        )


def in_words(error: Exception, *warned: str) -> str:
    """Why something did not run, in one line; warnings tell more than torch's own error does."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = [line.strip() for text in (*warned, str(error)) for line in text.splitlines()[:1]]
    reasons = [TRIGGERED.sub("", line) for line in lines if line and not EMPTY.search(line)]
    text = "; ".join(dict.fromkeys(reasons)) or f"refused ({type(error).__name__})"
    return text if len(text) <= LONGEST_NOTE else text[: LONGEST_NOTE - 3] + "..."


def wrong_in_words(error: float, tolerance: float) -> str:
    """What is wrong with outputs."""
    if not math.isfinite(error):
        return "gives values that are not finite, or another shape"
    return f"differs from its twin by {error:.1e}, {tolerance:.1e} allowed"
