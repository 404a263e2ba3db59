"""The machine and software of a measurement, and the memory of this process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import afstream

TRITON_PACKAGES = ("triton", "pytorch-triton", "triton-rocm", "pytorch-triton-rocm")
KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What must be known to compare two measurements.

    Attributes:
        cpu: name of the processor.
        cores: logical cores that this process may run on.
        threads: threads that torch computes with.
        load: load average of the last minute; None where the system does not say. Much above 0
            before a measurement means that other processes were running.
        gpu: name of the GPU, None when it was not used.
        platform: operating system and architecture.
        python: version.
        torch: version.
        triton: version, None where it is not installed.
        afstream: version.
        commit: of the checkout that afstream runs from, with `-dirty` when files differ; None
            when it does not run from one.
    """

    cpu: str
    cores: int
    threads: int
    load: float | None
    gpu: str | None
    platform: str
    python: str
    torch: str
    triton: str | None
    afstream: str
    commit: str | None

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """This machine, for work on `device`."""
        return cls(
            cpu=cpu_name(),
            cores=usable_cores(),
            threads=torch.get_num_threads(),
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            platform=platform.platform(),
            python=platform.python_version(),
            torch=torch.__version__,
            triton=triton_version(),
            afstream=afstream.__version__,
            commit=checkout_commit(),
        )


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def triton_version() -> str | None:
    """Version of Triton, which torch's builds bring along under different names."""
    for name in TRITON_PACKAGES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def cpu_name() -> str:
    """The processor's name as its maker prints it, or the architecture."""
    name = _entry(Path("/proc/cpuinfo"), "model name")
    if name is None and platform.system() == "Darwin":
        name = command_output("sysctl", "-n", "machdep.cpu.brand_string")
    return name or platform.processor() or platform.machine()


def checkout_commit() -> str | None:
    """The commit that this package runs from, None outside of a checkout."""
    folder = str(Path(__file__).resolve().parent)
    # An installed package may lie inside the checkout of something else.
    if command_output("git", "-C", folder, "ls-files", Path(__file__).name) is None:
        return None
    return command_output("git", "-C", folder, "describe", "--always", "--dirty", "--exclude=*")


def command_output(*command: str) -> str | None:
    """Output of a command; None when it is missing, fails or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def resident_bytes() -> int | None:
    """Bytes of RAM that this process holds now; None where the system does not say."""
    held = _entry(Path("/proc/self/status"), "VmRSS")
    return None if held is None else int(held.split()[0]) * KIB


def peak_resident_bytes() -> int | None:
    """The most bytes of RAM that this process ever held; None where the system does not say."""
    # Not getrusage first, whose peak a process inherits from the one that started it.
    held = _entry(Path("/proc/self/status"), "VmHWM")
    if held is not None:
        return int(held.split()[0]) * KIB
    try:
        import resource  # noqa: PLC0415  absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, others in KiB.
    return peak if sys.platform == "darwin" else peak * KIB


def peak_device_bytes(device: torch.device) -> int | None:
    """The most bytes of tensors on a GPU since the last call; None on a CPU."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _entry(listing: Path, key: str) -> str | None:
    """The text after the first `key:` of a file; None without such a line or file."""
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None
