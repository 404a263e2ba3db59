"""Weights in eight bits: what is stored stands for itself times a scale, which lies beside it.

The public layouts name weights and scales in several ways; here they become one kind of weight,
computed in float32 when it is used, see `Stored`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from afstream.bounded import parse_json
from afstream.checkpoints.stored import Stored, form_of, stored
from afstream.errors import CheckpointError
from afstream.text import some_of
from afstream.validation import show_name, show_value

Weights = dict[str, Tensor]

WEIGHT = ".weight"
# quanto's name for the weight itself
DATA = ".weight._data"
# what layouts call a weight's scale; the last has one for each block of `BLOCK` rows and columns
SCALES = (".weight_scale", ".scale_weight", ".weight._scale", ".weight_scale_inv")
OF_BLOCKS = ".weight_scale_inv"
BLOCK = 128
MATRIX_DIMS = 2
# an empty tensor of this name says that scales lie beside the weights
MARK = "scaled_fp8"
# JSON for one layer, as bytes: how its weight is stored
SETTINGS = ".comfy_quant"
SETTINGS_BYTES = 4096
FORMATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fn_rowwise", "int8_tensorwise")
# these tell how to compute with a weight, not what it is
HARMLESS = {"format", "full_precision_matrix_mult", "orig_dtype"}
# likewise: scales for what a layer reads and gives
OF_INPUTS = (".input_scale", ".scale_input", ".output_scale")
# beside weights in other layouts: the end of a name, and what it tells of
OTHERS = {
    ".weight_scale_2": "nvfp4",
    ".weight_packed": "packed numbers of four bits (compressed-tensors)",
    ".weight_zero_point": "numbers with zero points",
    ".zero_point": "numbers with zero points",
    ".weight._shift": "numbers with zero points (quanto)",
    ".qweight": "packed numbers (GPTQ or AWQ)",
    ".qzeros": "packed numbers (GPTQ or AWQ)",
    ".wscales": "packed numbers (SVDQuant)",
    ".SCB": "eight bits of bitsandbytes",
    ".weight_format": "eight bits of bitsandbytes",
    ".absmax": "four bits of bitsandbytes",
    ".quant_map": "four bits of bitsandbytes",
}
ANOTHER = "give the model's file in bfloat16"


def dequantised(weights: Weights, path: Path) -> Weights:
    """Weights as they stand for, less what computing in eight bits needs; nothing is computed yet.

    Raises:
        CheckpointError: a weight is stored in a way that is not known, or scales are missing.
    """
    found: Weights = {}
    scales: dict[str, tuple[str, Tensor]] = {}
    is_marked = False
    for name, value in weights.items():
        _check_known(name, path)
        if name.split(".")[-1] == MARK:
            is_marked = True
        elif name.endswith(SETTINGS):
            _check_settings(name, value, path)
        elif own := _scaled(name, weights):
            if own in scales:
                raise CheckpointError(
                    f"{path} has two scales for {show_name(own)}, {show_name(scales[own][0])} and"
                    f" {show_name(name)}; {ANOTHER}"
                )
            scales[own] = name, value
        elif not name.endswith(OF_INPUTS):
            found[_plain(name)] = value
    if is_marked and not scales:
        raise CheckpointError(
            f"{path} says that its weights are scaled, but holds no scales; {ANOTHER}"
        )
    return found | {
        own: _restorable(found[own], name, scale, path) for own, (name, scale) in scales.items()
    }


def _plain(name: str) -> str:
    return name.removesuffix(DATA) + WEIGHT if name.endswith(DATA) else name


def _scaled(name: str, weights: Weights) -> str:
    """The weight that a scale is of; empty for other names, and where that weight is not there."""
    for end in SCALES:
        if name.endswith(end):
            layer = name.removesuffix(end)
            return layer + WEIGHT if {layer + WEIGHT, layer + DATA} & weights.keys() else ""
    return ""


def _restorable(weight: Tensor, name: str, scale: Tensor, path: Path) -> Stored:
    """A weight that is what is stored times its scale."""
    is_stored = weight.is_floating_point() or weight.dtype == torch.int8
    fits = _covers(scale, weight.shape, in_blocks=name.endswith(OF_BLOCKS))
    if not (is_stored and scale.is_floating_point() and weight.numel() and fits):
        raise CheckpointError(
            f"{path} holds {form_of(weight)} weights with scales such as {show_name(name)}"
            f" {tuple(scale.shape)}, {form_of(scale)}, which afstream cannot apply; {ANOTHER}"
        )

    def restore(device: torch.device) -> Tensor:
        # moved as it is stored, which is least
        wide = weight.to(device).to(torch.float32, copy=True)
        factor = scale.to(device, torch.float32)
        if name.endswith(OF_BLOCKS):
            for rows, of_rows in zip(wide.split(BLOCK), factor, strict=True):
                for part, one in zip(rows.split(BLOCK, 1), of_rows, strict=True):
                    part.mul_(one)
        else:
            groups = max(1, scale.numel() // len(wide))
            # rows, groups of values in a row, values
            wide.view(len(wide), groups, -1).mul_(factor.reshape(-1, groups, 1))
        return wide

    return stored(weight.shape, (weight, scale), restore, form=form_of(weight))


def _covers(scale: Tensor, shape: Sequence[int], *, in_blocks: bool) -> bool:
    """Whether there is a scale for the whole of a weight, each row, group in a row, or block."""
    rows = shape[0] if shape else 0
    if in_blocks:
        blocks = tuple(math.ceil(size / BLOCK) for size in shape)
        return len(shape) == MATRIX_DIMS and tuple(scale.shape) == blocks
    if scale.numel() == 1:
        return bool(shape)
    # [rows], or [rows, groups] with or without axes of one value behind
    sizes = list(scale.shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    if sizes == [rows]:
        return True
    is_grouped = len(sizes) == len(shape) == MATRIX_DIMS and sizes[0] == rows and sizes[1] > 0
    return is_grouped and shape[1] % sizes[1] == 0


def _check_known(name: str, path: Path) -> None:
    for end, what in OTHERS.items():
        if name.endswith(end):
            raise CheckpointError(
                f"{path} stores weights as {what}, by {show_name(name)}, which afstream does not"
                f" read; {ANOTHER}"
            )


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
