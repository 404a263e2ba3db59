"""What the measurement of kernels found, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from afstream.bench.kernels.ceilings import H200, Ceilings
from afstream.bench.kernels.gpu import GpuState
from afstream.bench.kernels.predictions import Prediction
from afstream.bench.kernels.shapes import KernelShape
from afstream.bench.kernels.timing import Timing
from afstream.bench.machine import Machine

# timed; right but not timed; wrong, so not timed; broke off; cannot run here
Status = Literal["timed", "checked", "wrong", "failed", "unavailable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """One implementation of one operation.

    Attributes:
        name: of the implementation.
        ours: it is one of afstream's own; else what one would run without it.
        status: whether it was timed, and why not.
        error: largest error of a row against the twin, relative to the rows' root mean
            square; infinite for values that are not finite, None where nothing came out.
        timing: None where it was not timed.
        tflops: 10^12 operations a second that the task asks for; None where moving is all.
        gb_per_s: 10^9 bytes a second that the task asks for.
        share_of_floor: the floor's time relative to this one; None without measured ceilings.
        times_ours: how many times as long as our first implementation it took.
        prediction: what was expected of it; None where nothing was.
        note: why it was not timed.
    """

    name: str
    ours: bool
    status: Status
    error: float | None = None
    timing: Timing | None = None
    tflops: float | None = None
    gb_per_s: float | None = None
    share_of_floor: float | None = None
    times_ours: float | None = None
    prediction: Prediction | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One operation.

    Attributes:
        name: of the operation.
        about: its sizes, in words.
        tolerance: the error up to which an implementation counts as right.
        flops: that the task asks for.
        moved_bytes: that the task asks for.
        floor_ms: by the ceilings that were measured; None where none were.
        h200_floor_ms: by the ceilings of an H200.
        rows: our own implementations first.
    """

    name: str
    about: str
    tolerance: float
    flops: float
    moved_bytes: float
    floor_ms: float | None
    h200_floor_ms: float
    rows: tuple[KernelRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """All operations, with the machine that the figures hold for.

    Attributes:
        time: when it began, UTC.
        machine: where.
        gpu: its state under load; None on a CPU.
        device: as torch names it.
        dtype: of the tensors.
        shape: the sizes.
        ceilings: measured; None on a CPU.
        cases: the operations.
    """

    time: datetime
    machine: Machine
    gpu: GpuState | None
    device: str
    dtype: str
    shape: KernelShape
    ceilings: Ceilings | None
    cases: tuple[CaseResult, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Our own implementations that are wrong or broke off."""
        return tuple(
            f"{case.name}: {row.name}"
            for case in self.cases
            for row in case.rows
            if row.ours and row.status in ("wrong", "failed")
        )

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data = asdict(self)
        for case in data["cases"]:
            for row in case["rows"]:
                # JSON has no infinity
                if row["error"] is not None and not math.isfinite(row["error"]):
                    row["error"] = None
        return {
            "kind": "kernels",
            **data,
            "time": self.time.astimezone(timezone.utc).isoformat(timespec="seconds"),
            "h200_ceilings": asdict(H200),
            "faults": list(self.faults),
        }
