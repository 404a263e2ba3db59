"""What arithmetic said before anything was timed on a GPU, and what was aimed at."""

from __future__ import annotations

from dataclasses import dataclass

from afstream.bench.kernels.shapes import PRODUCTION, KernelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Milliseconds on an H200 at the production size.

    Attributes:
        low_ms: no faster than that.
        high_ms: no slower than that.
        aim_ms: at most that is wanted; None where nothing was set.
    """

    low_ms: float
    high_ms: float
    aim_ms: float | None = None


def _exactly(ms: float, *, aim_ms: float | None = None) -> Prediction:
    return Prediction(low_ms=ms, high_ms=ms, aim_ms=aim_ms)


CHUNK = "attention, chunk"
NORM_WRITE = "norm + RoPE + write"
CAPTURE = "slot copy, capture"
# By case and implementation.
PREDICTIONS = {
    (CHUNK, "triton"): _exactly(1.50),
    (CHUNK, "triton, whole"): _exactly(1.69),
    (CHUNK, "triton, split"): _exactly(1.50),
    (CHUNK, "SDPA cudnn, keys ready"): _exactly(1.27),
    (CHUNK, "SDPA flash, keys ready"): _exactly(2.2),
    (NORM_WRITE, "triton"): Prediction(low_ms=0.015, high_ms=0.020, aim_ms=0.025),
    (CAPTURE, "triton"): _exactly(0.40, aim_ms=0.6),
}


def predicted(shape: KernelShape, case: str, name: str) -> Prediction | None:
    """The prediction for one implementation, None where there is none."""
    return PREDICTIONS.get((case, name)) if shape == PRODUCTION else None
