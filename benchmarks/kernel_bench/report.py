"""What the measurement of kernels found, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from afstream.bench.machine import Machine
from kernel_bench.sizes import PRODUCTION, KernelShape
from kernel_bench.timing import H200, Ceilings, Timing

# timed; right but not timed; wrong, so not timed; raised an error; cannot run here
Status = Literal["timed", "checked", "wrong", "failed", "unavailable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Milliseconds on an H200 at the production size.

    Attributes:
        low_ms: lower end of what was predicted.
        high_ms: upper end of what was predicted.
        aim_ms: the time to reach; None where none was set.
    """

    low_ms: float
    high_ms: float
    aim_ms: float | None = None


def _exactly(ms: float, *, aim_ms: float | None = None) -> Prediction:
    return Prediction(low_ms=ms, high_ms=ms, aim_ms=aim_ms)


CHUNK = "attention, chunk"
NORM_WRITE = "norm + RoPE + write"
STORE = "slot copy, store"
# What arithmetic predicted before anything was timed, by case and implementation.
PREDICTIONS = {
    (CHUNK, "triton"): _exactly(1.50),
    (CHUNK, "triton, whole"): _exactly(1.69),
    (CHUNK, "triton, split"): _exactly(1.50),
    (CHUNK, "SDPA cudnn, keys ready"): _exactly(1.27),
    (CHUNK, "SDPA flash, keys ready"): _exactly(2.2),
    (NORM_WRITE, "triton"): Prediction(low_ms=0.015, high_ms=0.020, aim_ms=0.025),
    (STORE, "triton"): _exactly(0.40, aim_ms=0.6),
}


def predicted(shape: KernelShape, case: str, name: str) -> Prediction | None:
    """The prediction for one implementation, None where there is none."""
    return PREDICTIONS.get((case, name)) if shape == PRODUCTION else None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """One implementation of one operation.

    Attributes:
        name: of the implementation.
        ours: it is one of afstream's own, not what one would run without it.
        status: whether it was timed, and why not.
        error: largest error of a row against the twin, relative to the rows' root mean
            square; infinite for values that are not finite, None where nothing came out.
        timing: None where it was not timed.
        tflops: 10^12 operations a second that the task needs; None for a task without any.
        gb_per_s: 10^9 bytes a second that the task needs.
        share_of_floor: the floor's time relative to this one; None without measured ceilings.
        times_ours: how many times as long as our first implementation it took.
        prediction: the time predicted; None where none was.
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
    """One operation; see `KernelCase` for the first five.

    Attributes:
        floor_ms: by the ceilings that were measured; None where none were.
        h200_floor_ms: by the ceilings of an H200.
        rows: its implementations, our own first.
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
        machine: where it ran.
        gpu: the GPU's state under load, see `gpu_state`; None on a CPU.
        device: as torch names it.
        dtype: of the tensors.
        shape: the sizes.
        ceilings: measured; None on a CPU.
        cases: the operations.
    """

    time: datetime
    machine: Machine
    gpu: dict[str, Any] | None
    device: str
    dtype: str
    shape: KernelShape
    ceilings: Ceilings | None
    cases: tuple[CaseResult, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Our own implementations that are wrong or raised an error."""
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
