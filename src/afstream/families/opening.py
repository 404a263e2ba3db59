"""Models by name or path, and what they run on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from afstream.checkpoints.folders import likely_parts
from afstream.errors import CheckpointError, ConfigError, PromptError
from afstream.families.pocket.model import POCKET_PATH, load_pocket
from afstream.families.presets import Preset
from afstream.families.wan.model import open_wan
from afstream.families.wan.random import RANDOM, open_random
from afstream.families.wan.text import read_tokenizer, tokens_of
from afstream.model.bundle import VideoModel
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from afstream.timeline import Cue
from afstream_kernels import Backend, choose_backend

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def open_model(
    spec: ModelSpec, *, prompts: Sequence[str] = (), like: Preset | None = None
) -> VideoModel:
    """Load a model for a device.

    Args:
        spec: which one, from which files, and where its parts go.
        prompts: those that are known beforehand; see `ModelSpec.text`.
        like: the family that it belongs to, whose denoise steps it then takes.

    Raises:
        ConfigError: unknown dtype, a device that this machine lacks, or what the model cannot
            take.
        CheckpointError: there is no such model, or a piece of it is missing or does not fit.
        PromptError: the model cannot understand a prompt.
    """
    model = _open(spec, prompts)
    if like is None:
        return model
    return replace(model, sampler=like.sampler, details={**model.details, "preset": like.name})


def check_cues(spec: ModelSpec, cues: Sequence[Cue]) -> None:
    """See that prompts are not too long, where a Wan folder's tokenizer is at hand.

    Raises:
        TimelineError: one has too many tokens; says where it stands.
        CheckpointError: the tokenizer is damaged.
        ConfigError: transformers is not installed.
    """
    path = Path(spec.name)
    parts = likely_parts(path) if path.is_dir() else None
    if parts is None or not parts.tokenizer.is_dir():
        return
    tokenize = read_tokenizer(parts.tokenizer)
    for cue in cues:
        try:
            tokens_of(cue.prompt, tokenize)
        except PromptError as error:
            raise cue.place.error(str(error)) from error


def _open(spec: ModelSpec, prompts: Sequence[str]) -> VideoModel:
    device = model_device(spec.device)
    chosen = dtype_name(spec, device)
    if chosen not in DTYPES:
        raise ConfigError(f"dtype is {chosen!r}; choose one of {', '.join(DTYPES)}")
    path = POCKET_PATH if spec.name == "pocket" else Path(spec.name)
    if _is_folder(path):
        return open_wan(path, spec, device=device, dtype=DTYPES[chosen], prompts=prompts)
    if spec.additions:
        raise ConfigError(
            f"a {next(iter(spec.additions))} was given with the model {spec.name!r}; it needs a"
            " Wan2.1 folder as the model"
        )
    if spec.name.startswith(RANDOM):
        return open_random(spec.name, device=device, dtype=DTYPES[chosen], offload=spec.offload)
    if spec.offload:
        raise ConfigError(f"the model {spec.name!r} is small; leave --offload out")
    return load_pocket(path, device=device, dtype=DTYPES[chosen])


def _is_folder(path: Path) -> bool:
    """Whether a model is a folder and no file.

    Raises:
        CheckpointError: it is neither, or out of reach.
    """
    reason = f"there is no model {str(path)!r}"
    try:
        if path.is_dir():
            return True
        if path.is_file() or str(path).startswith(RANDOM):
            return False
    except OSError as error:
        reason = f"the model {str(path)!r} cannot be reached: {error.strerror}"
    raise CheckpointError(
        f"{reason}; give 'pocket' (built in), the path of a pocket model file (.safetensors), the"
        f" folder of a Wan2.1 text-to-video model, or {RANDOM}wan-1.3b or {RANDOM}wan-14b for"
        " random weights of that size"
    )


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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {name!r}, but this machine or torch build has no CUDA; use cpu"
        )
    return device


def kernel_backend(backend: Backend | str | None, backbone: Backbone) -> Backend:
    """The backend for a backbone: as it was chosen before, else by `choose_backend`.

    Raises:
        ConfigError: unknown name, or a backend that cannot run there.
    """
    if isinstance(backend, Backend):
        return backend
    try:
        return choose_backend(backend, device=backbone.device, dtype=backbone.dtype)
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
