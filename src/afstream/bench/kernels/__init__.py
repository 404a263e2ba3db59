"""Each kernel checked against its twin, then timed beside what one would run without it."""

from afstream.bench.kernels.bench import Progress, kernel_settings, run_kernel_bench
from afstream.bench.kernels.case import KernelCase, KernelSettings
from afstream.bench.kernels.cases import kernel_cases
from afstream.bench.kernels.report import CaseResult, KernelReport, KernelRow
from afstream.bench.kernels.results import append_line, check_appendable, results_file
from afstream.bench.kernels.shapes import SIZES, KernelShape

__all__ = [
    "SIZES",
    "CaseResult",
    "KernelCase",
    "KernelReport",
    "KernelRow",
    "KernelSettings",
    "KernelShape",
    "Progress",
    "append_line",
    "check_appendable",
    "kernel_cases",
    "kernel_settings",
    "results_file",
    "run_kernel_bench",
]
