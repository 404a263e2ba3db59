"""Each kernel checked against its twin, then timed beside what one would run without it.

Not part of the installed package: `afstream bench kernels` finds it in the checkout. The folder
is not called `kernels`, because transformers looks for an installed package of that name.
"""

from kernel_bench.bench import Progress, kernel_cases, kernel_settings, run_kernel_bench
from kernel_bench.case import KernelCase, KernelSettings
from kernel_bench.report import CaseResult, KernelReport, KernelRow
from kernel_bench.results import RESULTS_FILE, append_line, check_appendable
from kernel_bench.sizes import SIZES, KernelShape

__all__ = [
    "RESULTS_FILE",
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
    "run_kernel_bench",
]
