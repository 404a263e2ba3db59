"""The family of models without files: Wan2.1's sizes, random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afstream.config import WAN_BACKBONES, BackboneConfig
from afstream.errors import CheckpointError
from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.wan.facts import FORMAT, GEOMETRY, LENGTHS
from afstream.spec import Addition, ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from afstream.checkpoints.findings import Finding
    from afstream.model.protocols import VideoDecoder


PREFIX = "random:"


class RandomFamily(ModelFamily):
    """`random:` and a size of Wan2.1; in everything but its parts like the real one."""

    name = "random"
    given_as = " or ".join(f"{PREFIX}{size}" for size in WAN_BACKBONES) + " (random weights)"
    format = FORMAT
    geometry = GEOMETRY
    lengths = LENGTHS
    any_size = True
    takes: frozenset[Addition] = frozenset(("offloaded layers",))

    def names(self, spec: ModelSpec) -> bool:
        """Whether it begins with `random:`."""
        return spec.name.startswith(PREFIX)

    def open(self, spec: ModelSpec, where: Placement, prompts: Sequence[str] = ()) -> VideoModel:
        """See `ModelFamily`."""
        from afstream.families.random.model import open_random  # noqa: PLC0415

        return open_random(spec, sizes_of(spec.name), self, where)

    def identify(self, path: Path) -> Finding | None:
        """See `ModelFamily`: there is nothing but a name."""
        from afstream.checkpoints.findings import Finding  # noqa: PLC0415
        from afstream.checkpoints.kinds import FAMILY  # noqa: PLC0415

        if not str(path).startswith(PREFIX):
            return None
        return Finding(
            path=path, kind="random weights", family=FAMILY, backbone=sizes_of(str(path))
        )

    def tiny_decoder(self, dtype: torch.dtype) -> VideoDecoder | None:
        """The real one's."""
        from afstream.families.wan.tiny import meta_tiny  # noqa: PLC0415

        return meta_tiny(dtype)


def sizes_of(name: str) -> BackboneConfig:
    """The sizes of a model by its name; an unknown one raises `CheckpointError`."""
    size = name.removeprefix(PREFIX)
    if size not in WAN_BACKBONES:
        known = " or ".join(f"{PREFIX}{known}" for known in WAN_BACKBONES)
        raise CheckpointError(f"there is no model {name!r}; give {known}")
    return WAN_BACKBONES[size]


RANDOM = RandomFamily()
