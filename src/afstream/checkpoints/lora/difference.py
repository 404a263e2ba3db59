"""A difference that its file holds whole, of a weight, a bias or a modulation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from afstream.checkpoints.lora.delta import Delta


class Difference(Delta):
    """The one part that there is."""

    __slots__ = ()
    kind = "difference"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        return tuple(self.parts["diff"].shape)

    def values(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The difference itself."""
        return parts["diff"]
