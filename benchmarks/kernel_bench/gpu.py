"""Clocks and power of a GPU, by which its timings are to be judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from afstream.bench.machine import command_output

# Asked of nvidia-smi; all but the first are numbers.
QUERIES = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "max_sm_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def gpu_state(device: torch.device, load: Callable[[], object]) -> dict[str, Any]:
    """Name, sizes, versions, clocks and power of a GPU while it is at work.

    Args:
        device: the GPU.
        load: returns at once and keeps the GPU busy for a while.

    Returns:
        name, capability (such as 9.0), multiprocessors, memory_bytes, cuda (the version torch was
        built for) and the keys of `QUERIES`, each None where nvidia-smi does not tell it.
    """
    properties = torch.cuda.get_device_properties(device)
    load()
    # by UUID, because torch and nvidia-smi number GPUs differently
    told = command_output(
        "nvidia-smi",
        "--id=GPU-" + str(properties.uuid).removeprefix("GPU-"),
        "--query-gpu=" + ",".join(QUERIES.values()),
        "--format=csv,noheader,nounits",
    )
    torch.cuda.synchronize(device)
    values = [value.strip() for value in (told or "").partition("\n")[0].split(",")]
    answers = dict(zip(QUERIES, values, strict=True)) if len(values) == len(QUERIES) else {}
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": answers.pop("driver", None),
        **{name: _number(answers.get(name)) for name in list(QUERIES)[1:]},
    }


def _number(told: str | None) -> float | None:
    """A number, or None for a word in its place such as [N/A]."""
    try:
        return float(told or "")
    except ValueError:
        return None
