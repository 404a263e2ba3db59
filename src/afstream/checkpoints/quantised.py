"""Weights in eight bits: what is stored stands for itself times a scale, which lies beside it.

The public layouts name their scales in several ways; once a file is read, the scale of a weight
`X` is called `X_scale`. It is applied when the weight is loaded: no file is in memory twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from afstream.bounded import parse_json
from afstream.errors import CheckpointError
from afstream.text import some_of
from afstream.validation import show_name, show_value

Weights = dict[str, Tensor]

SCALE = "_scale"
WEIGHT_SCALE = ".weight" + SCALE
# what other layouts call it
OTHER_SCALE = ".scale_weight"
# an empty tensor of this name says that scales lie beside the weights
MARK = "scaled_fp8"
# JSON for one layer, as bytes: how its weight is stored
SETTINGS = ".comfy_quant"
SETTINGS_BYTES = 4096
FORMATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fn_rowwise", "int8_tensorwise")
# these tell how to compute with a weight, not what it is
HARMLESS = {"format", "full_precision_matrix_mult", "orig_dtype"}
# likewise: scales for what a layer reads
OF_INPUTS = (".input_scale", ".scale_input")
ANOTHER = "give the model's file in bfloat16"


def with_named_scales(weights: Weights, path: Path) -> Weights:
    """Weights with scales under our names, less what computing in eight bits needs.

    Raises:
        CheckpointError: a weight is stored in a way that is not known, or scales are missing.
    """
    found: Weights = {}
    is_marked = False
    for name, value in weights.items():
        if name.split(".")[-1] == MARK:
            is_marked = True
        elif name.endswith(SETTINGS):
            _check_settings(name, value, path)
        elif name.endswith(OTHER_SCALE):
            found[name.removesuffix(OTHER_SCALE) + WEIGHT_SCALE] = value
        elif not name.endswith(OF_INPUTS):
            found[name] = value
    scales = scales_of(found)
    if is_marked and not scales:
        raise CheckpointError(
            f"{path} says that its weights are scaled, but holds no scales; {ANOTHER}"
        )
    for name in scales:
        _check_scale(name, found[name], found[name.removesuffix(SCALE)], path)
    return found


def scales_of(weights: Weights) -> list[str]:
    """Names of the scales among weights."""
    return [name for name in weights if name.endswith(SCALE) and name[: -len(SCALE)] in weights]


def restored(weights: Weights, name: str, value: Tensor) -> Tensor:
    """What a stored weight stands for: itself times its scale in float32, where it lies.

    A weight without a scale is given back as it is.
    """
    scale = weights.get(name + SCALE)
    if scale is None:
        return value
    groups = _groups(scale, value.shape)
    wide = value.to(torch.float32, copy=True)
    # rows, groups of values in a row, values
    wide.view(len(wide), groups, -1).mul_(scale.to(wide).view(-1, groups, 1))
    return wide


def all_restored(weights: Weights) -> Weights:
    """Weights as they stand for, without their scales; for small models only."""
    scales = set(scales_of(weights))
    names = [name for name in weights if name not in scales]
    return {name: restored(weights, name, weights[name]) for name in names}


def _groups(scale: Tensor, shape: Sequence[int]) -> int:
    """Parts of a row that have scales of their own; 0 where a scale does not fit a shape."""
    rows = shape[0] if shape else 0
    if scale.numel() == 1 or scale.numel() == rows == scale.shape[0]:
        return 1
    is_grouped = scale.ndim == len(shape) + 1 and tuple(scale.shape[::2]) == (rows, 1)
    groups = scale.shape[1] if is_grouped else 0
    return groups if groups and shape[1] % groups == 0 else 0


def _check_scale(name: str, scale: Tensor, weight: Tensor, path: Path) -> None:
    stored = weight.is_floating_point() or weight.dtype == torch.int8
    if stored and scale.is_floating_point() and weight.numel() and _groups(scale, weight.shape):
        return
    raise CheckpointError(
        f"{path} holds {_stored(weight)} weights with scales such as {show_name(name)}"
        f" {tuple(scale.shape)}, {_stored(scale)}, which afstream cannot apply; {ANOTHER}"
    )


def _stored(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _check_settings(name: str, value: Tensor, path: Path) -> None:
    """See that a layer is stored in one of `FORMATS`, and that nothing else was done to it."""
    # a text is short, and of bytes
    text = value.flatten()[:SETTINGS_BYTES].to(torch.uint8)
    try:
        said = parse_json(bytes(text.tolist()).decode())
        form, others = said["format"], sorted(key for key in said if said[key])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path} holds {show_name(name)}, which does not tell how a weight is stored; {ANOTHER}"
        ) from error
    unknown = [show_name(key) for key in others if key not in HARMLESS]
    if form not in FORMATS or unknown:
        extra = f" with {some_of(unknown)}" if unknown else ""
        raise CheckpointError(
            f"{path} stores weights as {show_value(form)}{extra}, which afstream does not read;"
            f" {ANOTHER}"
        )
