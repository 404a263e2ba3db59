"""One operation: checked, then timed beside its alternatives."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kernel_bench.case import KernelCase, KernelSettings, Op, Outputs
from kernel_bench.errors import worst_error
from kernel_bench.report import CaseResult, KernelRow, predicted
from kernel_bench.timing import H200, PER_MS_TO_TERA, Ceilings, Timer

PER_MS_TO_GIGA = 1e-6
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
        timer: None only checks.
        ceilings: as measured; None where nothing was.
        alternatives: also run what one would run without us.
    """

    def __init__(
        self,
        case: KernelCase,
        settings: KernelSettings,
        timer: Timer | None,
        ceilings: Ceilings | None,
        *,
        alternatives: bool,
    ) -> None:
        self._case = case
        self._settings = settings
        self._timer = timer
        self._floor_ms = None if ceilings is None else case.floor_ms(ceilings)
        self._ways = [(name, op, True) for name, op in case.ops.items()]
        if alternatives:
            self._ways += [(name, op, False) for name, op in case.alternatives.items()]
        self._first_ms: float | None = None

    @property
    def count(self) -> int:
        """Number of implementations to run."""
        return len(self._ways)

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
            flops=case.flops,
            moved_bytes=case.moved_bytes,
            floor_ms=self._floor_ms,
            h200_floor_ms=case.floor_ms(H200),
            rows=tuple(rows),
        )

    def _rows(self) -> Iterator[KernelRow]:
        try:
            inputs = self._case.make_inputs()
            expected = self._case.expected(inputs)
        except Exception as error:  # noqa: BLE001  the other operations can still be measured
            note = "no inputs: " + in_words(error)
            yield from (_broken(name, note, ours=ours) for name, _, ours in self._ways)
            return
        for name, op, ours in self._ways:
            yield self._row(name, op, inputs, expected, ours=ours)

    def _row(self, name: str, op: Op, inputs: Any, expected: Outputs, *, ours: bool) -> KernelRow:  # noqa: ANN401
        case = self._case
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                case.poison(inputs)
                error = worst_error(op(inputs), expected)
                right = error <= case.tolerance
                timing = self._timer(lambda: op(inputs)) if right and self._timer else None
            except Exception as reason:  # noqa: BLE001  whatever an implementation raises
                note = in_words(reason, *(str(warning.message) for warning in told))
                return _broken(name, note, ours=ours)
        if timing is None:
            note = INTERPRETED if right else wrong_in_words(error, case.tolerance)
            status = "checked" if right else "wrong"
            return KernelRow(name=name, ours=ours, status=status, error=error, note=note)
        ms = timing.median_ms
        if name == next(iter(case.ops)):
            self._first_ms = ms
        return KernelRow(
            name=name,
            ours=ours,
            status="timed",
            error=error,
            timing=timing,
            tflops=case.flops / ms * PER_MS_TO_TERA if case.flops else None,
            gb_per_s=case.moved_bytes / ms * PER_MS_TO_GIGA,
            share_of_floor=None if self._floor_ms is None else self._floor_ms / ms,
            times_ours=None if self._first_ms is None else ms / self._first_ms,
            prediction=predicted(self._settings.shape, case.name, name),
        )


def _broken(name: str, note: str, *, ours: bool) -> KernelRow:
    status = "failed" if ours else "unavailable"
    return KernelRow(name=name, ours=ours, status=status, note=note)


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
