"""Kinds of numbers in a recipe, and what each allows."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Limits:
    """What a number may be.

    Attributes:
        low: the least, or what it must be above.
        high: the most.
        above: whether `low` itself is too little.
    """

    low: float
    high: float = inf
    above: bool = False

    def allow(self, value: float) -> bool:
        """Whether the number is within the limits; NaN never is."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        """As an error tells it."""
        if self.above:
            return f"above {self.low:g}"
        return f"at least {self.low:g}" if self.high == inf else f"{self.low:g} to {self.high:g}"


Count = Annotated[int, Limits(1)]
Whole = Annotated[int, Limits(0)]
Share = Annotated[float, Limits(0, 1)]
Amount = Annotated[float, Limits(0)]
Positive = Annotated[float, Limits(0, above=True)]
