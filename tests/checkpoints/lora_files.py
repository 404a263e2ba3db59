"""Small LoRA files of every layout, and what they must add."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from safetensors.torch import save_file
from tests.wan_transformer import diffusers_name, wan_weights

from afstream.checkpoints import merge_loras, read_loras

LAYERS = ("blocks.0.self_attn.q", "blocks.1.ffn.0", "blocks.1.cross_attn.o")
RANK = 4


@cache
def shape(layer):
    """The shape of a weight of the tiny backbone."""
    return wan_weights()[f"{layer}.weight"].shape


def pair(layer, rank=RANK):
    """Both halves for a layer of the tiny backbone, the same each time."""
    out, width = shape(layer)
    generator = torch.Generator().manual_seed(sum(map(ord, layer)) + rank)
    down = torch.randn(rank, width, generator=generator)
    return down, torch.randn(out, rank, generator=generator)


def theirs(layer):
    """A layer in diffusers' words."""
    return diffusers_name(f"{layer}.weight").removesuffix(".weight")


def underscored(layer):
    """A layer as kohya's trainers spell it."""
    return layer.replace(".", "_")


def pairs(
    prefix="",
    down="lora_A.weight",
    up="lora_B.weight",
    *,
    alpha: object = None,
    spell: Callable[[str], str] = str,
):
    """Pairs by the names of a layout."""
    named: dict[str, Any] = {}
    for layer in LAYERS:
        spelled = prefix + spell(layer)
        named[f"{spelled}.{down}"], named[f"{spelled}.{up}"] = pair(layer)
        if alpha is not None:
            is_tensor = isinstance(alpha, torch.Tensor)
            named[f"{spelled}.alpha"] = alpha.clone() if is_tensor else alpha
    return named


def written(path, content, metadata=None):
    """A path with content written there, as safetensors or by torch."""
    if path.suffix == ".safetensors":
        save_file(content, path, metadata)
    else:
        torch.save(content, path)
    return path


def expected(factors):
    """The tiny backbone's weights with each layer's pair times its factor."""
    weights = wan_weights()
    for layer, factor in factors.items():
        down, up = pair(layer)
        weights[f"{layer}.weight"] += factor * (up @ down)
    return weights


def check_merged(given, wanted, base=None):
    """See that the tiny backbone with LoRAs has the wanted weights."""
    merged = merge_loras(base or wan_weights(), read_loras([str(one) for one in given]))
    assert merged.keys() == wanted.keys()
    for name, value in merged.items():
        assert value.dtype == wanted[name].dtype
        torch.testing.assert_close(value.double(), wanted[name].double(), rtol=0, atol=1e-5)


def check_factor(given, factor):
    """See that every layer's pair is added times a factor."""
    check_merged([given], expected(dict.fromkeys(LAYERS, factor)))
