"""How large a backbone is: from its `config.json` where there is one, else from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.files import Weights, read_settings
from afstream.checkpoints.kinds import (
    CHANNELS,
    FAMILY,
    TELLING,
    declared_family,
    family_of,
    part_of,
)
from afstream.checkpoints.names import LAYER
from afstream.config import BackboneConfig
from afstream.errors import CheckpointError
from afstream.validation import show_name, validated

# what no weight tells: how Wan2.1 is, unless a config.json says otherwise
UNSEEN: dict[str, Any] = {"head_dim": 128, "text_len": 512, "eps": 1e-6}
# latent frames, rows and columns of a token
PATCH_SIZE = (1, 2, 2)

# of names in a backbone
BEGINNINGS = ("blocks.", "patch_embedding.", "time_", "text_embedding.", "head.")
# axis 0 and axis 1 of a weight, where they are sizes
SHAPES = (
    ("patch_embedding.weight", 5, "dim", "in_dim"),
    ("blocks.0.ffn.0.weight", 2, "ffn_dim", None),
    ("time_embedding.0.weight", 2, None, "freq_dim"),
    ("text_embedding.0.weight", 2, None, "text_dim"),
    ("head.head.weight", 2, "out_dim", None),
)


def read_config(path: Path) -> dict[str, Any]:
    """The sizes that a `config.json` declares; see `BackboneFile.sizes`.

    An absent file declares nothing.

    Raises:
        CheckpointError: it cannot be read, or describes another kind of model.
    """
    # a link to a missing file is a fault, which reading it tells
    if not path.exists() and not path.is_symlink():
        return {}
    config = read_settings(path, BackboneFile)
    family = declared_family(config)
    if family != FAMILY:
        raise CheckpointError(f"{path} describes {family}, not {FAMILY}; give a {FAMILY} model")
    return config.sizes()


def _instead(weights: Weights, name: str, ndim: int) -> str:
    """What weights are that lack one of a backbone's, or have it with other axes."""
    if part := part_of(weights):
        return f"it holds a {part[0]}"
    for beginning, family in TELLING.items():
        if any(one.startswith(beginning) for one in weights):
            return f"it holds a part of {family}"
    if any(one.startswith(BEGINNINGS) for one in weights):
        return f"it has no {name} of {ndim} axes"
    return f"its names are of an unknown layout, such as {show_name(min(weights, default=''))}"


def sizes_of(weights: Weights, *, what: str, declared: Mapping[str, Any]) -> BackboneConfig:
    """The sizes of the backbone that weights, under Wan's names, are for.

    They must agree with what `read_config` says is declared; `what` is what errors call them.

    Raises:
        CheckpointError: they are no Wan2.1 text-to-video backbone.
    """
    layers = {found[1] for found in map(LAYER.fullmatch, weights) if found}
    seen: dict[str, Any] = {"num_layers": len(layers)}
    for name, ndim, *axes in SHAPES:
        if name not in weights or weights[name].ndim != ndim:
            raise CheckpointError(
                f"{what} is no Wan2.1 backbone: {_instead(weights, name, ndim)}; give a Wan2.1"
                " text-to-video model or a student of one"
            )
        for axis, size in zip(axes, weights[name].shape, strict=False):
            if axis:
                seen[axis] = size
    patch = tuple(weights["patch_embedding.weight"].shape[2:])
    if patch != PATCH_SIZE or declared.get("patch_size", PATCH_SIZE) != PATCH_SIZE:
        raise CheckpointError(
            f"{what} has patches of {declared.get('patch_size', patch)}, its weights of {patch};"
            f" give a {FAMILY} model, whose patches are {PATCH_SIZE}"
        )
    seen["patch"] = patch[-1]
    seen["out_dim"] //= patch[-1] ** 2
    if (seen["in_dim"], seen["out_dim"]) != (CHANNELS, CHANNELS):
        raise CheckpointError(
            f"{what} takes {seen['in_dim']} latent channels and gives {seen['out_dim']}, so it is"
            f" {family_of(weights)}; give a {FAMILY} model, which has {CHANNELS} of both"
        )
    for name, size in seen.items():
        if size != declared.get(name, size):
            raise CheckpointError(
                f"{what} does not fit its settings: {name} is {size} by its weights, but"
                f" {declared[name]} is declared; give files of one model"
            )
    sizes = {**UNSEEN, **declared, **seen}
    sizes["num_heads"] = sizes["dim"] // sizes["head_dim"]
    if not sizes["num_heads"] or sizes["dim"] % sizes["head_dim"]:
        raise CheckpointError(
            f"{what} is {sizes['dim']} wide, which cannot be split into heads of"
            f" {sizes['head_dim']}; give a model folder whose config.json names its heads"
        )
    return validated(
        BackboneConfig,
        sizes,
        source=f"{what} has impossible sizes",
        remedy=f"give a {FAMILY} model",
        error=CheckpointError,
    )
