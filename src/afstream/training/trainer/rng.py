"""Random numbers of a training run, drawn so that nothing depends on how work is divided.

Each number depends on the seed and on what it is for, never on what was drawn before it: a
resumed run and a run on another number of processes draw the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def generator(seed: int, *names: object) -> torch.Generator:
    """A generator on the CPU whose numbers depend on the seed and on `names`, their purpose."""
    text = ":".join(map(str, (seed, *names)))
    digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def pick(count: int, seed: int, *names: object) -> int:
    """A whole number from 0 to count - 1, each as likely as the others."""
    return int(torch.randint(count, (1,), generator=generator(seed, *names)))


def normal(shape: Sequence[int], rows: Sequence[int], seed: int, *names: object) -> Tensor:
    """Normal noise [len(rows), *shape]; each row depends on its own number alone."""
    return torch.stack(
        [torch.randn(*shape, generator=generator(seed, *names, row)) for row in rows]
    )


def in_turn(number: int, count: int, seed: int) -> int:
    """The index of a draw: all of `count` things once, then all again in another order."""
    turn, at = divmod(number, count)
    return _order(count, seed, turn)[at]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, turn: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=generator(seed, "order", turn)).tolist())
