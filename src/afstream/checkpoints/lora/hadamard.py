"""LoHa: two low-rank products, multiplied value by value.

The rule is that of Hyeon-Woo et al. (arXiv:2108.06098) as LyCORIS and PEFT have it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from afstream.checkpoints.lora.delta import (
    FlatDelta,
    Source,
    check_matrices,
    is_product,
    is_tucker,
    tucker,
    unmultiplied,
)

MATRICES = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
CORES = {"hada_t1", "hada_t2"}


class Hadamard(FlatDelta):
    """(w1_a @ w1_b) * (w2_a @ w2_b): [out, rank] and [rank, in] twice.

    With cores t1 and t2 [rank, rank, ...], w1_a and w2_a are [rank, out].
    """

    __slots__ = ()
    kind = "LoHa"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        left, right = self.parts["hada_w1_a"], self.parts["hada_w1_b"]
        core = self.parts.get("hada_t1")
        if core is None:
            return left.shape[0], right.shape[1]
        return left.shape[1], right.shape[1], *core.shape[2:]

    @property
    def rank(self) -> int:
        """Rows of the right factors."""
        return self.parts["hada_w1_b"].shape[0]

    def values(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Both products, multiplied."""
        return _product(parts, "1") * _product(parts, "2")


def hadamard(parts: Mapping[str, Tensor], source: Source) -> Hadamard:
    """A Hadamard product of its parts.

    Raises:
        CheckpointError: one is missing, or they cannot be multiplied.
    """
    if set(parts) not in (MATRICES, MATRICES | CORES):
        raise source.fault(
            f"LoHa matrices {', '.join(sorted(parts))}",
            ", which do not make a whole one; give a whole LoRA",
        )
    check_matrices(parts, source)
    if not all(_is_fit(parts, one) for one in "12"):
        raise unmultiplied(parts, source)
    found = Hadamard(parts=parts)
    one, two = (
        Hadamard(parts={name: parts[name.replace("1", end)] for name in _names(parts)}).shape
        for end in "12"
    )
    if one != two or parts["hada_w1_b"].shape[0] != parts["hada_w2_b"].shape[0]:
        raise unmultiplied(parts, source)
    return found


def _names(parts: Mapping[str, Tensor]) -> list[str]:
    """Names of the first product's parts."""
    return [name for name in ("hada_w1_a", "hada_w1_b", "hada_t1") if name in parts]


def _is_fit(parts: Mapping[str, Tensor], end: str) -> bool:
    left, right = parts[f"hada_w{end}_a"], parts[f"hada_w{end}_b"]
    core = parts.get(f"hada_t{end}")
    return is_product(left, right) if core is None else is_tucker(core, left, right)


def _product(parts: Mapping[str, Tensor], end: str) -> Tensor:
    left, right = parts[f"hada_w{end}_a"], parts[f"hada_w{end}_b"]
    core = parts.get(f"hada_t{end}")
    return left @ right if core is None else tucker(core, left, right)
