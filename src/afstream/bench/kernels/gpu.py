"""What a GPU is and how it stands: clocks and power, by which timings are to be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from afstream.bench.machine import command_output

QUERY = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "max_sm_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One GPU while it is at work; what nvidia-smi does not tell is None.

    Attributes:
        name: of the GPU.
        capability: compute capability, such as 9.0.
        multiprocessors: how many.
        memory_bytes: all of it.
        cuda: version that torch was built for.
        driver: version.
        sm_mhz: clock of the multiprocessors.
        max_sm_mhz: the highest that it has.
        memory_mhz: clock of the memory.
        power_w: drawn.
        power_limit_w: allowed.
        temperature_c: of the chip.
    """

    name: str
    capability: str
    multiprocessors: int
    memory_bytes: int
    cuda: str | None
    driver: str | None
    sm_mhz: float | None
    max_sm_mhz: float | None
    memory_mhz: float | None
    power_w: float | None
    power_limit_w: float | None
    temperature_c: float | None

    @classmethod
    def read(cls, device: torch.device, load: Callable[[], object]) -> GpuState:
        """Read it under a load that returns at once and keeps the GPU busy for a while."""
        properties = torch.cuda.get_device_properties(device)
        load()
        told = _ask(str(properties.uuid))
        torch.cuda.synchronize(device)
        return cls(
            name=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            memory_bytes=properties.total_memory,
            cuda=torch.version.cuda,
            driver=told.get("driver"),
            sm_mhz=_number(told.get("sm_mhz")),
            max_sm_mhz=_number(told.get("max_sm_mhz")),
            memory_mhz=_number(told.get("memory_mhz")),
            power_w=_number(told.get("power_w")),
            power_limit_w=_number(told.get("power_limit_w")),
            temperature_c=_number(told.get("temperature_c")),
        )


def _ask(uuid: str) -> dict[str, str]:
    """What nvidia-smi says; torch and nvidia-smi number GPUs differently, so by name."""
    told = command_output(
        "nvidia-smi",
        "--id=" + "GPU-" + uuid.removeprefix("GPU-"),
        "--query-gpu=" + ",".join(QUERY.values()),
        "--format=csv,noheader,nounits",
    )
    values = [
        value.strip() for value in (told or "").splitlines()[0:1] for value in value.split(",")
    ]
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else {}


def _number(told: str | None) -> float | None:
    """A number, or None for what it puts in the place of one, such as [N/A]."""
    try:
        return float(told or "")
    except ValueError:
        return None
