"""What a steady chunk copies and waits for, read from a profile of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# None of these may happen in the passes of a steady chunk.
FORBIDDEN = (
    "aten::clone",
    "aten::cat",
    "aten::roll",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "Memcpy DtoH",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "Memcpy DtoD",
)
# Sent once a chunk: its noise, and which slots it sees. From the graph's results to its input:
# the finished latents.
ONCE_A_CHUNK = {"Memcpy HtoD": 2, "Memcpy DtoD": 1}
TOP = 12


def profiled(work: Callable[[], Any]) -> dict[str, Any]:
    """Run `work` under the profiler.

    Returns:
        `counts` of every event that copies or waits, `faults` in words, and the kernels that
        took the most time, `top_ms`.
    """
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if gpu else [])
    with profile(activities=activities) as found:
        work()
        if gpu:
            torch.cuda.synchronize()
    events = found.key_averages()
    counts: dict[str, int] = {}
    for event in events:
        for name in {*FORBIDDEN, *ONCE_A_CHUNK}:
            if event.key.startswith(name):
                counts[name] = counts.get(name, 0) + event.count
    faults = [
        f"{count} x {name}" for name, count in counts.items() if count > ONCE_A_CHUNK.get(name, 0)
    ]
    kernels = sorted(events, key=_device_us, reverse=True)[:TOP]
    return {
        "counts": counts,
        "faults": faults,
        "top_ms": {
            event.key[:80]: round(_device_us(event) / 1000, 3)
            for event in kernels
            if _device_us(event)
        },
    }


def _device_us(event: Any) -> float:  # noqa: ANN401  torch names no type for it
    return float(getattr(event, "self_device_time_total", 0.0))
