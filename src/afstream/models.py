"""Models by name or path, and what they run on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from afstream.errors import CheckpointError, ConfigError
from afstream.model.bundle import VideoModel
from afstream.model.dit import Backbone
from afstream.pocket.model import POCKET_PATH, load_pocket
from afstream_kernels import Backend, choose_backend

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def open_model(
    name: str = "pocket", *, device: str | None = None, dtype: str | None = None
) -> VideoModel:
    """Load a model for a device.

    Args:
        name: `pocket`, or the path of a model file.
        device: cpu or cuda; the GPU where there is one.
        dtype: a key of `DTYPES`; bfloat16 on a GPU, float32 elsewhere.

    Raises:
        ConfigError: unknown dtype, or a device that this machine lacks.
        CheckpointError: there is no such model.
    """
    where = _device(device)
    chosen = dtype or ("bfloat16" if where.type == "cuda" else "float32")
    if chosen not in DTYPES:
        raise ConfigError(f"dtype is {chosen!r}; choose one of {', '.join(DTYPES)}")
    path = POCKET_PATH if name == "pocket" else Path(name)
    if not path.exists():
        raise CheckpointError(
            f"there is no model {name!r}; give 'pocket' (built in) or the path of a pocket"
            " model file (.safetensors)"
        )
    return load_pocket(path, device=where, dtype=DTYPES[chosen])


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; choose cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {name!r}, but this machine or torch build has no CUDA; use cpu"
        )
    return device


def kernel_backend(name: str | None, backbone: Backbone) -> Backend:
    """The backend of the kernels for a backbone; see `afstream_kernels.choose_backend`.

    Raises:
        ConfigError: unknown name, or a backend that cannot run there.
    """
    try:
        return choose_backend(name, device=backbone.device, dtype=backbone.dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def compile_backbone(backbone: Backbone) -> None:
    """Have torch compile the layers when they are first called, one graph for all of them.

    Raises:
        ConfigError: there is no compiler for it on this machine.
    """
    compilers = (
        ("CXX", "g++", "clang++") if backbone.device.type == "cpu" else ("CC", "gcc", "clang")
    )
    found = [shutil.which(os.environ.get(name, name)) for name in compilers]
    if not any(found):
        raise ConfigError(
            f"compiling needs one of {', '.join(compilers[1:])}, and there is none on this"
            " machine; install one, or leave --compile out"
        )
    backbone.compile_layers()
