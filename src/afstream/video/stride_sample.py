"""A bounded sample at a regular stride, of a sequence of unknown length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# With four candidates to each pick, two neighbouring gaps differ by a third at most.
CANDIDATES_PER_PICK = 4


class StrideSample(Generic[T]):
    """Keeps every n-th item offered; n doubles whenever there are too many.

    Memory depends on `picks` alone, the choice on nothing but the number of items.
    """

    def __init__(self, picks: int) -> None:
        self._picks = picks
        self._kept: list[T] = []
        self._stride = 1
        self._offered = 0

    def offer(self, make: Callable[[], T]) -> None:
        """Count one item; `make` is called only if the item is kept."""
        if self._offered % self._stride == 0:
            self._kept.append(make())
        self._offered += 1
        if len(self._kept) > CANDIDATES_PER_PICK * self._picks:
            self._kept = self._kept[::2]
            self._stride *= 2

    def picked(self) -> list[T]:
        """The picks in order, the first item among them; all items if there are no more."""
        last = len(self._kept) - 1
        if last < self._picks:
            return list(self._kept)
        gaps = self._picks - 1
        return [self._kept[(index * last + gaps // 2) // gaps] for index in range(self._picks)]
