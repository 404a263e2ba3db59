"""Which implementation runs: decided here, by device, dtype and what is installed.

- `triton`: our own kernels, on a GPU or in Triton's interpreter.
- `sdpa`: torch's own attention, on any device; the other operations run on Triton where they can.
- `reference`: the PyTorch twins, everywhere.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Literal, get_args

import torch

Backend = Literal["triton", "sdpa", "reference"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
VARIABLE = "AFSTREAM_BACKEND"
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Triton's matrix products need Ampere
LOWEST_CAPABILITY = (8, 0)
# tensors without memory go the ways of a GPU, so that what it would need can be counted
GPUS = ("cuda", "meta")


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
    if wanted == "auto":
        # on a CPU the interpreter is for tests only
        on_triton = where.type in GPUS and triton_hindrance(where, dtype) is None
        return "triton" if on_triton else "sdpa"
    if wanted == "triton":
        hindrance = triton_hindrance(where, dtype)
        if hindrance is not None:
            raise ValueError(f"the backend triton cannot run here: {hindrance}; use auto")
    for backend in BACKENDS:
        if wanted == backend:
            return backend
    source = "backend" if name else VARIABLE
    raise ValueError(f"{source} is {wanted!r}; choose auto, {', '.join(BACKENDS)}")


def runs_triton(backend: Backend, x: torch.Tensor) -> bool:
    """Whether an operation other than attention on x runs on Triton under a backend."""
    if backend != "sdpa":
        return backend == "triton"
    return goes_as_on_gpu(x) and triton_hindrance(x.device, x.dtype) is None


def goes_as_on_gpu(x: torch.Tensor) -> bool:
    """Whether x lies on a GPU, or has no memory and stands for something that will."""
    return x.device.type in GPUS


def triton_hindrance(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton cannot compute with such tensors, None if it can."""
    return _hindrance(device, dtype)


# what torch.compiler.assume_constant_result does, which would load the compiler: a second at start
triton_hindrance._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@cache
def _hindrance(device: torch.device, dtype: torch.dtype) -> str | None:
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
