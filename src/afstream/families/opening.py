"""Opening a model on a device: its dtype, compiled layers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

import torch

from afstream.errors import ConfigError
from afstream.families.base import Placement, VideoModel
from afstream.families.presets import Preset
from afstream.families.registry import family_of
from afstream.model.dit import Backbone
from afstream.model.protocols import DenoisingBackbone
from afstream.spec import ModelSpec
from afstream_kernels import on_device

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

# A second copy of the weights, in the CPU's own layout: the most memory it may take, and a width at
# which it was faster than plain weights; at 192 no gain was sure, see docs/performance.md.
PACKED_BYTES = 2**30
PACKED_WIDTH = 384


def open_model(
    spec: ModelSpec,
    *,
    prompts: Sequence[str] = (),
    like: Preset | None = None,
    compiled: bool = False,
) -> VideoModel:
    """Load a model for a device.

    Args:
        spec: which one, from which files, and where its parts go.
        prompts: those that are known beforehand; see `ModelSpec.text`.
        like: the public students that it belongs to, whose denoise steps it then takes.
        compiled: have torch compile the backbone's layers when they are first called.

    Raises:
        ConfigError: unknown dtype, a device that this machine lacks, what the model cannot take,
            or no compiler on this machine.
        CheckpointError: there is no such model, or a piece of it is missing or does not fit.
        PromptError: the model cannot understand a prompt.
    """
    family, where = family_of(spec), placement(spec)
    with on_device(where.device):
        model = family.open(spec, where, prompts)
    if compiled:
        check_compiler(model.backbone, where.device).compile_layers()
    elif isinstance(model.backbone, Backbone):
        pack_weights(model.backbone)
    if like is None:
        return model
    return replace(model, sampler=like.sampler, details={**model.details, "preset": like.name})


def placement(spec: ModelSpec) -> Placement:
    """Where a model goes, and the dtype of its weights there.

    Raises:
        ConfigError: unknown dtype, or a device that this machine lacks.
    """
    device = model_device(spec.device)
    chosen = dtype_name(spec, device)
    if chosen not in DTYPES:
        raise ConfigError(f"dtype is {chosen!r}; choose one of {', '.join(DTYPES)}")
    return Placement(device, DTYPES[chosen])


def dtype_name(spec: ModelSpec, device: torch.device) -> str:
    """The dtype that is asked for, or what suits the device."""
    return spec.dtype or ("bfloat16" if device.type == "cuda" else "float32")


def model_device(name: str | None) -> torch.device:
    """A device by name; None is the GPU where there is one.

    Raises:
        ConfigError: unknown name, or a device that this machine lacks.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; choose cpu or cuda") from error
    # on the meta device memory is counted
    if device.type not in ("cpu", "cuda", "meta"):
        raise ConfigError(f"device is {name!r}; choose cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {name!r}, but this machine or torch build has no CUDA; use cpu"
        )
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"device is {name!r}, but this machine has {count} of them; choose from cuda:0 to"
            f" cuda:{count - 1}"
        )
    return device


def check_compiler(backbone: DenoisingBackbone, device: torch.device) -> Backbone:
    """See that torch can compile a backbone's layers when they are first called on a device.

    Raises:
        ConfigError: there is no compiler for it on this machine, or the backbone's layers are
            not afstream's own.
    """
    if not isinstance(backbone, Backbone):
        raise ConfigError(
            f"a {type(backbone).__name__} cannot be compiled; leave --compile out, or compile it"
            " before it is given to a stream"
        )
    compilers = ("CXX", "g++", "clang++") if device.type == "cpu" else ("CC", "gcc", "clang")
    found = [shutil.which(os.environ.get(name, name)) for name in compilers]
    if not any(found):
        raise ConfigError(
            f"compiling needs one of {', '.join(compilers[1:])}, and there is none on this"
            " machine; install one, or leave --compile out"
        )
    return backbone


def pack_weights(backbone: Backbone) -> None:
    """Pack the weights of a backbone on a CPU, where that is faster and the copy is not large."""
    size = sum(weight.nbytes for weight in backbone.parameters())
    wide = backbone.config.dim >= PACKED_WIDTH
    if wide and size <= PACKED_BYTES and not backbone.is_offloaded:
        backbone.pack_weights()
