"""All operations, checked and timed on one device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import torch

from afstream.bench.machine import Machine
from afstream.errors import ConfigError
from afstream_kernels import BACKENDS, BackendName, choose_backend
from afstream_kernels.dispatch import triton_unavailable_reason
from kernel_bench.attention import chunk_case, recache_case, training_case
from kernel_bench.case import KernelCase, KernelSettings
from kernel_bench.copies import copy_cases
from kernel_bench.gpu import gpu_state
from kernel_bench.norms import modulation_case, norm_training_case, norm_write_case
from kernel_bench.report import CaseResult, KernelReport
from kernel_bench.run import CaseRun
from kernel_bench.sizes import POCKET, PRODUCTION, SIZES, KernelShape
from kernel_bench.timing import Ceilings, GpuTimer, measure_ceilings, product_load, time_on_cpu

Progress = Callable[[int, int, str], None]

# Load under which clocks are read; nvidia-smi takes a while to answer.
LOAD_MS = 1500.0


def ignore(done: int, total: int, text: str) -> None:
    """Report no progress."""


def kernel_cases(settings: KernelSettings) -> list[KernelCase]:
    """Every operation at the settings' sizes, in the order in which a chunk meets them."""
    return [
        modulation_case(settings),
        norm_write_case(settings),
        chunk_case(settings),
        recache_case(settings),
        *copy_cases(settings),
        norm_training_case(settings),
        training_case(settings),
    ]


def run_kernel_bench(
    device: str | None = None,
    size: str | KernelShape | None = None,
    *,
    backend: str | None = None,
    compiled: bool = True,
    report: Progress = ignore,
) -> KernelReport:
    """Check each operation against its twin; time those that are right.

    On a GPU with measured ceilings, and beside what one would run without afstream; on a CPU
    our own implementations only, whose timings mean nothing for a GPU.

    Args:
        device: cpu or cuda [default: cuda where there is a GPU].
        size: a name from `SIZES`, or sizes [default: 480p on a GPU, pocket on a CPU].
        backend: measure only this implementation of ours.
        compiled: on a GPU, also compare with torch.compile, which takes minutes.
        report: called with the implementations done, those to do, and what comes next.

    Raises:
        ConfigError: a device, size or backend that cannot be had here.
    """
    settings = kernel_settings(device, size, backend=backend, compiled=compiled)
    device_index = settings.device if settings.device.type == "cuda" else -1
    # Triton launches on the current device; -1 leaves it alone
    with torch.no_grad(), torch.cuda.device(device_index):
        return _run(settings, report)


def kernel_settings(
    device: str | None = None,
    size: str | KernelShape | None = None,
    *,
    backend: str | None = None,
    compiled: bool = True,
) -> KernelSettings:
    """The settings for what was asked for; see `run_kernel_bench`."""
    where = _read_device(device)
    on_gpu = where.type == "cuda"
    shape = _read_size(size, PRODUCTION if on_gpu else POCKET)
    if shape == PRODUCTION and not on_gpu:
        raise ConfigError(
            f"size is {shape.name!r}, which on a CPU would take tens of gigabytes and tell nothing"
            f" about a GPU; use {POCKET.name}"
        )
    dtype = torch.bfloat16 if on_gpu else torch.float32
    if on_gpu and _interprets():
        raise ConfigError(
            "TRITON_INTERPRET is set, so no kernel would run on the GPU; unset it, or choose the"
            " device cpu"
        )
    return KernelSettings(
        shape=shape,
        device=where,
        dtype=dtype,
        backends=_read_backends(backend, where, dtype),
        compiled=compiled and on_gpu,
    )


def _run(settings: KernelSettings, report: Progress) -> KernelReport:
    began = datetime.now(timezone.utc)
    device, on_gpu = settings.device, settings.device.type == "cuda"
    machine = Machine.here(device)
    timer, ceilings, gpu = time_on_cpu, None, None
    if on_gpu:
        report(0, 1, "ceilings")
        timer = GpuTimer(device)
        ceilings, gpu = _look_at_gpu(timer, device)
    if "triton" in settings.backends and _interprets():
        timer = None
    runs = {
        case.name: CaseRun(case, settings, timer, ceilings, alternatives=on_gpu)
        for case in kernel_cases(settings)
    }
    total, done = sum(run.count for run in runs.values()), 0
    results: list[CaseResult] = []
    for case, run in runs.items():

        def tell(row: str, case: str = case) -> None:
            nonlocal done
            done += 1
            report(done, total, f"{case}: {row}")

        results.append(run.result(tell))
        if on_gpu:
            # The next operation's inputs take gigabytes, and compiled code is kept for ever. A
            # kernel that broke the CUDA context must not hide the report that names it.
            with suppress(RuntimeError):
                torch.compiler.reset()
                torch.cuda.empty_cache()
    return KernelReport(
        time=began,
        machine=machine,
        gpu=gpu,
        device=str(device),
        dtype=str(settings.dtype).removeprefix("torch."),
        shape=settings.shape,
        ceilings=ceilings,
        cases=tuple(results),
    )


def _look_at_gpu(timer: GpuTimer, device: torch.device) -> tuple[Ceilings, dict[str, Any]]:
    """Its ceilings, and its clocks while it multiplies."""
    ceilings, product_ms = measure_ceilings(timer, device)
    multiply = product_load(device)

    def load() -> None:
        for _ in range(max(int(LOAD_MS / product_ms), 1)):
            multiply()

    return ceilings, gpu_state(device, load)


def _read_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; choose cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device is {name!r}, but torch can use {torch.cuda.device_count()} CUDA devices here;"
            " choose another, or cpu"
        )
    return device


def _read_size(size: str | KernelShape | None, default: KernelShape) -> KernelShape:
    if size is None or isinstance(size, KernelShape):
        return size or default
    if size not in SIZES:
        raise ConfigError(f"size is {size!r}; choose {' or '.join(SIZES)}")
    return SIZES[size]


def _read_backends(
    name: str | None, device: torch.device, dtype: torch.dtype
) -> tuple[BackendName, ...]:
    """The implementations to measure, the one that the engine would choose first."""
    try:
        first = choose_backend(name, device=device, dtype=dtype).name
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if name not in (None, "auto"):
        return (first,)
    # on a GPU the twin would take longer than everything else, and most of the memory
    others = BACKENDS if device.type == "cpu" else ("triton", "sdpa")
    return (first, *(other for other in others if other not in (first, "triton")))


def _interprets() -> bool:
    """Whether Triton's kernels would run in its interpreter: nothing else runs them on a CPU."""
    return triton_unavailable_reason(torch.device("cpu"), torch.float32) is None
