"""The kinds of changes, and what a file's parts of one weight make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from afstream.checkpoints.lora.delta import Delta, Source
from afstream.checkpoints.lora.difference import Difference
from afstream.checkpoints.lora.dora import Dora, dora_of
from afstream.checkpoints.lora.hadamard import hadamard
from afstream.checkpoints.lora.kronecker import kronecker
from afstream.checkpoints.lora.names import MAGNITUDES, PEFT_MAGNITUDE
from afstream.checkpoints.lora.pair import pair

# makers by how the names of their parts begin
MAKERS: dict[tuple[str, ...], Callable[[Mapping[str, Tensor], Source], Delta]] = {
    ("down", "up", "mid"): pair,
    ("lokr_",): kronecker,
    ("hada_",): hadamard,
}
DIFFERENCES = ("bias", "diff", "diff_b", "diff_m")


class Change(NamedTuple):
    """What one file does to one weight.

    Attributes:
        factor: of the difference, by its alpha.
        dora: lengths of the changed weight, where it is a DoRA.
        is_scaled: whether its layer's alpha counts.
    """

    delta: Delta
    factor: float = 1.0
    dora: Dora | None = None
    is_scaled: bool = True

    @property
    def kind(self) -> str:
        """In words."""
        if self.dora is None:
            return self.delta.kind
        return "DoRA" if self.delta.kind == "LoRA" else f"DoRA of {self.delta.kind}"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What its file holds of it."""
        lengths = () if self.dora is None else (self.dora.magnitude,)
        return (*self.delta.parts.values(), *lengths)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it changes a weight of a shape."""
        return self.delta.fits(shape) and (self.dora is None or self.dora.fits(shape))

    def added(self, weight: Tensor, base: Tensor, scale: float) -> Tensor:
        """A weight, already changed or not, with this change of the base, at a scale."""
        if self.dora is None:
            return self.delta.added(weight, scale * self.factor)
        # in this order, the base itself gives what the rule says to the last bit
        return self.dora.added(self.delta, base, self.factor, scale) + (weight - base)


def changes_of(parts: Mapping[str, Tensor], source: Source) -> list[Change]:
    """The changes of one weight by its parts in a file, still without factors.

    Raises:
        CheckpointError: parts are missing or do not go together.
    """
    found = [
        Change(Difference(parts={"diff": value}), is_scaled=part == "bias")
        for part, value in parts.items()
        if part in DIFFERENCES
    ]
    made = [
        Change(make(own, source))
        for begins, make in MAKERS.items()
        if (own := {part: value for part, value in parts.items() if part.startswith(begins)})
    ]
    if len(made) > 1:
        kinds = " and ".join(one.kind for one in made)
        raise source.fault(f"both {kinds}", "; give a LoRA that changes it once")
    lengths = [part for part in MAGNITUDES if part in parts]
    if lengths and (not made or len(lengths) > 1):
        what = "DoRA's lengths twice" if made else "DoRA's lengths and no matrices"
        raise source.fault(what, "; give a whole LoRA")
    if lengths:
        part = lengths[0]
        shape, is_peft = made[0].delta.shape, part == PEFT_MAGNITUDE
        dora = dora_of(parts[part], shape, source, is_peft=is_peft)
        made = [made[0]._replace(dora=dora)]
    return [*made, *found]
