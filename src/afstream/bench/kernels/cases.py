"""All operations that are measured, in the order in which a chunk meets them."""

from __future__ import annotations

from typing import Any

from afstream.bench.kernels.attention import chunk_case, recache_case, training_case
from afstream.bench.kernels.case import KernelCase, KernelSettings
from afstream.bench.kernels.copies import capture_case, view_case
from afstream.bench.kernels.modulation import modulation_case
from afstream.bench.kernels.norms import norm_training_case, norm_write_case


def kernel_cases(settings: KernelSettings) -> list[KernelCase[Any]]:
    """Every operation at the settings' sizes."""
    return [
        modulation_case(settings),
        norm_write_case(settings),
        chunk_case(settings),
        recache_case(settings),
        capture_case(settings),
        view_case(settings),
        norm_training_case(settings),
        training_case(settings),
    ]
