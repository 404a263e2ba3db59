"""The machine and the software that a measurement holds for."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import afstream

TRITON_PACKAGES = ("triton", "pytorch-triton", "triton-rocm", "pytorch-triton-rocm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What must be known to compare two measurements.

    Attributes:
        cpu: name of the processor.
        cores: logical cores that this process may run on.
        threads: threads that torch computes with.
        load: processes that wanted a core during the last minute; None where nobody counts
            them. Much above 0 before a measurement means that it shared the machine.
        gpu: name of the GPU, None when it was not used.
        platform: operating system and architecture.
        python: version.
        torch: version.
        triton: version, None where it is not installed.
        afstream: version.
        commit: of the checkout that afstream runs from, `-dirty` behind it when files differ;
            None when it does not run from one.
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
    """Of the Triton that torch's builds bring along, under one name or another."""
    for name in TRITON_PACKAGES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def cpu_name() -> str:
    """The processor's name as its maker prints it, or the architecture."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if platform.system() == "Darwin":
        return command_output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def checkout_commit() -> str | None:
    """The commit that this package runs from, None when it is not a file of a checkout."""
    package = Path(__file__).resolve().parent
    # An installed package may lie inside the checkout of something else.
    if command_output("git", "-C", str(package), "ls-files", Path(__file__).name) is None:
        return None
    return command_output(
        "git", "-C", str(package), "describe", "--always", "--dirty", "--exclude=*"
    )


def command_output(*command: str) -> str | None:
    """What a command prints; None when there is no such command, or it fails or is silent."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
