"""How much memory the process and its GPU hold."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

KIB = 1024
# Second number of /proc/self/statm.
RESIDENT = 1


def resident_bytes() -> int | None:
    """Memory of this process that lies in RAM now; None where the system does not say."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return None
    import resource  # noqa: PLC0415  absent on Windows, which has no /proc either

    return int(pages.read_text().split()[RESIDENT]) * resource.getpagesize()


def peak_resident_bytes() -> int | None:
    """The most memory that this process ever held in RAM; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, whose peak a process inherits from the one that started it.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    try:
        import resource  # noqa: PLC0415  absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, others in KiB.
    return peak if sys.platform == "darwin" else peak * KIB


class DeviceFootprint:
    """The most that tensors have taken on a device since the last reading.

    Args:
        device: nothing is counted on a CPU, whose tensors are part of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None

    def read_peak_bytes(self) -> int | None:
        """The peak since the last call; the next one begins from what is taken now."""
        if self._device is None:
            return None
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak


def largest(values: list[int | None]) -> int | None:
    """The largest of the values that are known, None when none is."""
    return max((value for value in values if value is not None), default=None)
