"""LoRA through PEFT: thin pairs of matrices beside every Linear of the layers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afstream.checkpoints.files import save_tensors
from afstream.errors import ConfigError
from afstream.model.dit import Backbone
from afstream.model.linear import Linear
from afstream.training.trainer.distributed import ALONE, Processes, gathered

INSTALL = "pip install 'afstream[train]'"
ADAPTER = "default"
LAYERS = "blocks."
# PEFT's own prefix in files, and the adapter's name, which files leave out
PREFIX = "base_model.model."
HALF = re.compile(rf"(.+\.lora_[AB])\.{ADAPTER}(\.weight)")


def adapt(backbone: Backbone, *, rank: int, alpha: float, seed: int = 0) -> None:
    """Add a LoRA pair to every Linear of the layers, in place; only the pairs train afterwards.

    The backbone's output does not change: the second matrix of a pair begins with zeros. Pairs are
    scaled by alpha / rank; the seed is that of the first matrices.

    Raises:
        ConfigError: PEFT is not installed, or the rank is below 1.
    """
    if rank < 1:
        raise ConfigError(f"the LoRA's rank is {rank}; give 1 or more")
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        raise ConfigError(f"training a LoRA needs peft; install it with {INSTALL}") from error
    names = [
        name
        for name, part in backbone.named_modules()
        if name.startswith(LAYERS) and type(part) is Linear
    ]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, backbone, adapter_name=ADAPTER)
    # small beside the weights, and small steps would vanish in bfloat16
    for weight in backbone.parameters():
        if weight.requires_grad and weight.dtype == torch.bfloat16:
            weight.data = weight.data.float()


def save_adapters(path: Path, weights: Mapping[str, Tensor], *, alpha: float) -> None:
    """Write a LoRA as `.safetensors` under PEFT's names, which `read_lora` and others read.

    Of the weights of an adapted backbone, those that are no pairs are left out.

    Raises:
        ConfigError: there are no pairs.
    """
    found = {name: HALF.fullmatch(name) for name in weights}
    tensors = {f"{PREFIX}{half[1]}{half[2]}": weights[name] for name, half in found.items() if half}
    if not tensors:
        raise ConfigError("the model has no LoRA to write; write its weights instead")
    save_tensors(path, tensors, {"format": "pt", "lora_alpha": f"{alpha:g}"})


def save_trained(
    path: Path, weights: Mapping[str, Tensor], *, alpha: float, processes: Processes = ALONE
) -> None:
    """Write what a student learned: its LoRA, or all of its weights, as `--lora` or `--student`.

    Weights may be spread over processes, all of which must call it; the first one writes.
    """
    whole = gathered(weights)
    if not processes.is_first:
        return
    if any(map(HALF.fullmatch, whole)):
        save_adapters(path, whole, alpha=alpha)
    else:
        save_tensors(path, whole)
