"""A tiny Wan2.1 backbone as it lies on disk, in both layouts and with every name real."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from afstream.checkpoints.names import INNER, OUTER
from afstream.config import BackboneConfig
from afstream.model.dit import Backbone

CONFIG = BackboneConfig(
    dim=64, ffn_dim=128, freq_dim=32, text_dim=32, text_len=512, num_heads=2, num_layers=2, patch=2
)
# what the two config.json hold; text_dim is in diffusers' only, text_len in Wan's only
ORIGINAL = {
    "_class_name": "WanModel",
    "_diffusers_version": "0.30.0",
    "model_type": "t2v",
    "dim": 64,
    "eps": 1e-06,
    "ffn_dim": 128,
    "freq_dim": 32,
    "in_dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "out_dim": 16,
    "text_len": 512,
}
DIFFUSERS = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": "0.33.0.dev0",
    "added_kv_proj_dim": None,
    "attention_head_dim": 32,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 128,
    "freq_dim": 32,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 2,
    "num_layers": 2,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 32,
}


def wan_weights(config=CONFIG, *, seed=0):
    """Weights under Wan's names; no two alike, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Backbone(config).state_dict().items()}
    weights = {}
    for name, shape in shapes.items():
        spread = 0.1 if len(shape) == 1 else shape[1:].numel() ** -0.5
        weights[name] = torch.randn(shape, generator=generator) * spread
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights


def diffusers_name(name):
    """A Wan name turned into diffusers'."""
    found = re.fullmatch(r"(blocks\.\d+\.|)(.+)", name)
    assert found
    head, tail = found.groups()
    for theirs, ours in (INNER if head else OUTER).items():
        if tail == ours or tail.startswith(f"{ours}."):
            return f"{head}{theirs}{tail.removeprefix(ours)}"
    return name


def settings(config: BackboneConfig, layout: str) -> dict:
    """What a `config.json` of a layout holds for a backbone."""
    original = ORIGINAL | {
        name: getattr(config, name) for name in ("dim", "ffn_dim", "freq_dim", "num_heads")
    }
    diffusers = DIFFUSERS | {
        "attention_head_dim": config.head_dim,
        "num_attention_heads": config.num_heads,
        **{name: getattr(config, name) for name in ("ffn_dim", "freq_dim", "text_dim")},
    }
    return (original if layout == "original" else diffusers) | {"num_layers": config.num_layers}


def write_transformer(
    path: Path, layout: str, *, shards: int = 1, weights=None, config: BackboneConfig = CONFIG
) -> None:
    """Write the backbone's part of a model folder.

    Args:
        path: the model folder.
        layout: `original` or `diffusers`.
        shards: with more than one, an index says which file holds what.
        weights: under Wan's names.
        config: their sizes.
    """
    weights = wan_weights(config) if weights is None else weights
    folder = path if layout == "original" else path / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings(config, layout), indent=2))
    if layout == "diffusers":
        weights = {diffusers_name(name): value for name, value in weights.items()}
    if shards == 1:
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
        return
    places = {}
    for shard in range(shards):
        part = f"diffusion_pytorch_model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        names = sorted(weights)[shard::shards]
        save_file({name: weights[name] for name in names}, folder / part)
        places.update(dict.fromkeys(names, part))
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
