"""The family of models without files: Wan2.1's sizes, random weights."""

from __future__ import annotations

from collections.abc import Sequence

from afstream.config import WAN_BACKBONES
from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.wan.family import WAN
from afstream.spec import Addition, ModelSpec

PREFIX = "random:"


class RandomFamily(ModelFamily):
    """`random:` and a size of Wan2.1; in everything but its parts like the real one."""

    name = "random"
    given_as = " or ".join(PREFIX + size for size in WAN_BACKBONES) + " (random weights)"
    format = WAN.format
    geometry = WAN.geometry
    lengths = WAN.lengths
    any_size = True
    takes: frozenset[Addition] = frozenset(("offloaded layers",))

    def names(self, spec: ModelSpec) -> bool:
        """Whether it begins with `random:`."""
        return spec.name.startswith(PREFIX)

    def open(self, spec: ModelSpec, where: Placement, prompts: Sequence[str] = ()) -> VideoModel:
        """See `ModelFamily`."""
        from afstream.families.random.model import open_random  # noqa: PLC0415

        return open_random(spec.name, where, offload=spec.offload)


RANDOM = RandomFamily()
