"""Small checkpoints in the public layouts of other Wan2.1 decoders: tiny ones and light ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

# what the public code fixes, and what keeps test files small
FULL = (256, 128, 64, 64)
SMALL = (12, 8, 6, 4)


def tiny_decoder_shapes(widths: Sequence[int] = FULL) -> Shapes:
    """Names and shapes of the tiny decoder, layer by layer in the order of the public list."""
    shapes: Shapes = {}
    # Clamp, conv, ReLU
    layers: list[Shapes | None] = [None, conv2d(16, widths[0], 3), None]
    for stage, times in enumerate((1, 2, 2)):
        width, narrow = widths[stage], widths[stage + 1]
        # three MemBlocks, Upsample, TGrow, conv
        layers += [mem_block(width)] * 3
        layers += [None, {"conv.weight": (times * width, width, 1, 1)}]
        layers += [conv2d(width, narrow, 3, bias=False)]
    # ReLU, conv
    layers += [None, conv2d(widths[3], 3, 3)]
    for index, layer in enumerate(layers):
        shapes |= {f"decoder.{index}.{name}": shape for name, shape in (layer or {}).items()}
    return shapes


def tiny_encoder_shapes() -> Shapes:
    """Names and shapes of the encoder that the public files hold as well."""
    layers: list[Shapes | None] = [conv2d(3, 64, 3), None]
    for times in (2, 2, 1):
        # TPool, conv with stride 2, three MemBlocks
        layers += [{"conv.weight": (64, 64 * times, 1, 1)}, conv2d(64, 64, 3, bias=False)]
        layers += [mem_block(64)] * 3
    layers += [conv2d(64, 16, 3)]
    return {
        f"encoder.{index}.{name}": shape
        for index, layer in enumerate(layers)
        for name, shape in (layer or {}).items()
    }


def mem_block(width: int) -> Shapes:
    convs = {0: conv2d(2 * width, width, 3), 2: conv2d(width, width, 3), 4: conv2d(width, width, 3)}
    return {
        f"conv.{index}.{name}": shape for index, c in convs.items() for name, shape in c.items()
    }


def conv2d(inputs: int, outputs: int, size: int, *, bias: bool = True) -> Shapes:
    weight: Shapes = {"weight": (outputs, inputs, size, size)}
    return {**weight, "bias": (outputs,)} if bias else weight


def tiny_weights(widths: Sequence[int] = SMALL, *, seed: int = 3) -> dict[str, Tensor]:
    """A decoder of random weights whose pictures are neither flat nor all clamped."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator) * (0.8 / math.sqrt(math.prod(shape[1:]) or 1))
        for name, shape in tiny_decoder_shapes(widths).items()
    }
    weights["decoder.22.weight"] *= 0.25
    weights["decoder.22.bias"] = torch.full((3,), 0.5)
    return weights


def write_tiny(path: Path, weights: dict[str, Tensor], *, encoder: bool = True) -> Path:
    """A file as it is downloaded, which holds the encoder, too; `.pth` or `.safetensors`."""
    content = dict(weights)
    if encoder:
        # one number each, repeated: the encoder's widths are fixed, and files stay small
        zero = torch.zeros(1)
        content |= {name: zero.expand(shape) for name, shape in tiny_encoder_shapes().items()}
    if path.suffix.lower() == ".safetensors":
        save_file({name: value.contiguous() for name, value in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def pruned_wan_shapes(*, dim: int = 96, pruning_rate: float = 0.75) -> Shapes:
    """Names and shapes of Wan2.1's VAE as LightX2V prunes it: every width by one rate, rounded."""

    def pruned(*widths: int) -> list[int]:
        return [int(width * (1 - pruning_rate)) for width in widths]

    shapes: Shapes = {
        **_conv3d("conv1", 32, 32, (1, 1, 1)),
        **_conv3d("conv2", 16, 16, (1, 1, 1)),
    }
    widths = pruned(dim, dim, 2 * dim, 4 * dim, 4 * dim)
    shapes |= _conv3d("encoder.conv1", 3, widths[0], (3, 3, 3))
    index = 0
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        for block_inputs in (inputs, outputs):
            shapes |= _residual(f"encoder.downsamples.{index}", block_inputs, outputs)
            index += 1
        if stage < 3:
            name = f"encoder.downsamples.{index}"
            shapes |= _named(f"{name}.resample.1", conv2d(outputs, outputs, 3))
            if stage > 0:
                shapes |= _conv3d(f"{name}.time_conv", outputs, outputs, (3, 1, 1))
            index += 1
    shapes |= _middle("encoder", widths[-1]) | _head("encoder", widths[-1], 32)

    widths = pruned(4 * dim, 4 * dim, 4 * dim, 2 * dim, dim)
    shapes |= _conv3d("decoder.conv1", 16, widths[0], (3, 3, 3)) | _middle("decoder", widths[0])
    index = 0
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        # up-sampling before it has halved the width
        for block_inputs in (inputs // 2 if stage else inputs, outputs, outputs):
            shapes |= _residual(f"decoder.upsamples.{index}", block_inputs, outputs)
            index += 1
        if stage < 3:
            name = f"decoder.upsamples.{index}"
            shapes |= _named(f"{name}.resample.1", conv2d(outputs, outputs // 2, 3))
            if stage < 2:
                shapes |= _conv3d(f"{name}.time_conv", outputs, 2 * outputs, (3, 1, 1))
            index += 1
    return shapes | _head("decoder", widths[-1], 3)


def write_pruned_wan(path: Path, *, dim: int = 96, pruning_rate: float = 0.75) -> Path:
    """A file of one number for each weight, repeated: small whatever the sizes."""
    shapes = pruned_wan_shapes(dim=dim, pruning_rate=pruning_rate)
    torch.save({name: torch.full(shapes[name], 0.01) for name in shapes}, path)
    return path


def _residual(name: str, inputs: int, outputs: int) -> Shapes:
    shapes: Shapes = {
        f"{name}.residual.0.gamma": (inputs, 1, 1, 1),
        f"{name}.residual.3.gamma": (outputs, 1, 1, 1),
        **_conv3d(f"{name}.residual.2", inputs, outputs, (3, 3, 3)),
        **_conv3d(f"{name}.residual.6", outputs, outputs, (3, 3, 3)),
    }
    if inputs != outputs:
        shapes |= _conv3d(f"{name}.shortcut", inputs, outputs, (1, 1, 1))
    return shapes


def _middle(part: str, width: int) -> Shapes:
    attention: Shapes = {
        "norm.gamma": (width, 1, 1),
        **_named("to_qkv", conv2d(width, 3 * width, 1)),
        **_named("proj", conv2d(width, width, 1)),
    }
    return {
        **_residual(f"{part}.middle.0", width, width),
        **_named(f"{part}.middle.1", attention),
        **_residual(f"{part}.middle.2", width, width),
    }


def _head(part: str, width: int, outputs: int) -> Shapes:
    return {
        f"{part}.head.0.gamma": (width, 1, 1, 1),
        **_conv3d(f"{part}.head.2", width, outputs, (3, 3, 3)),
    }


def _conv3d(name: str, inputs: int, outputs: int, size: tuple[int, int, int]) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, *size), f"{name}.bias": (outputs,)}


def _named(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}
