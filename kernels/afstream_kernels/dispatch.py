"""Chooses the implementation once, by device, dtype and what is installed.

- `triton`: our own kernels, on a GPU or in Triton's interpreter.
- `sdpa`: torch's own attention, on any device; the other operations run on Triton where they can.
- `reference`: the PyTorch twins, everywhere.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

BackendName = Literal["triton", "sdpa", "reference"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
VARIABLE = "AFSTREAM_BACKEND"
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Triton's matrix products need Ampere
LOWEST_CAPABILITY = (8, 0)
# meta tensors take the paths of a GPU, so that the memory it would need can be counted
GPUS = ("cuda", "meta")


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend that was found able to run for a device and dtype.

    Attributes:
        name: what attention runs on.
        fused: whether the other operations run as Triton kernels, rather than as their twins.
    """

    name: BackendName
    fused: bool


# what operations take: a backend that was chosen before, or a name for `choose_backend`
AnyBackend = Backend | str | None


def choose_backend(
    name: str | None = None, *, device: torch.device | str, dtype: torch.dtype
) -> Backend:
    """The backend for tensors of a dtype on a device.

    Args:
        name: one of `BACKENDS`, or `auto`. None asks the environment variable
            `AFSTREAM_BACKEND`, and takes `auto` where that is not set.
        device: where the tensors live.
        dtype: of queries, keys and values.

    Raises:
        ValueError: unknown name, or a backend that cannot run there.
    """
    wanted = name or os.environ.get(VARIABLE) or "auto"
    where = torch.device(device)
    if wanted == "reference":
        return Backend("reference", fused=False)
    if wanted == "triton":
        reason = triton_unavailable_reason(where, dtype)
        if reason is not None:
            raise ValueError(f"the backend triton cannot run here: {reason}; use auto")
        return Backend("triton", fused=True)
    if wanted not in ("auto", "sdpa"):
        source = "backend" if name else VARIABLE
        raise ValueError(f"{source} is {wanted!r}; choose auto, {', '.join(BACKENDS)}")
    # on a CPU the interpreter is for tests only
    fused = where.type in GPUS and triton_unavailable_reason(where, dtype) is None
    return Backend("triton" if fused and wanted == "auto" else "sdpa", fused=fused)


def resolve(backend: AnyBackend, x: Tensor) -> Backend:
    """The backend for an operation on x, chosen now unless it was chosen before.

    Raises:
        ValueError: see `choose_backend`.
    """
    if isinstance(backend, Backend):
        return backend
    return choose_backend(backend, device=x.device, dtype=x.dtype)


def runs_as_on_gpu(x: Tensor) -> bool:
    """Whether x is on a GPU, or a meta tensor that stands for one that will be."""
    return x.device.type in GPUS


@cache
def triton_unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton cannot compute with such tensors, None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if dtype not in TRITON_DTYPES:
        return f"it has no {str(dtype).removeprefix('torch.')}"
    from triton import knobs

    if knobs.runtime.interpret:
        return None
    if device.type == "meta":
        return None
    if device.type != "cuda":
        return f"the device is {device.type}, and TRITON_INTERPRET=1 is not set"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < LOWEST_CAPABILITY:
        return "the GPU is older than compute capability 8.0"
    return None
