"""Amounts of memory in words: `12GiB` and back."""

from __future__ import annotations

import re

from afstream.errors import ConfigError

AMOUNT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT])(i?B)?", re.IGNORECASE)
POWERS = {letter: power for power, letter in enumerate("KMGT", start=1)}
MOST_SHOWN = 40
KIB, MIB, GIB = 2**10, 2**20, 2**30


def read_bytes(text: str, *, what: str = "--gpu-memory") -> int:
    """`12GiB`, `12G` (the same), `12GB` (a thousand million each) or `12288MiB` in bytes.

    Raises:
        ConfigError: it is no amount; `what` is what the error calls it.
    """
    match = AMOUNT.fullmatch(text.strip())
    base = 1000 if match and (match[3] or "").lower() == "b" else 1024
    amount = int(float(match[1]) * base ** POWERS[match[2].upper()]) if match else 0
    if not amount:
        raise ConfigError(
            f"{what} is {text[:MOST_SHOWN]!r}; give an amount of memory such as 12GiB, 12GB or"
            " 12288MiB"
        )
    return amount


def show_bytes(amount: int) -> str:
    """Bytes in the largest of KiB, MiB and GiB that fits: `11.6 GiB`."""
    if amount >= GIB:
        return f"{amount / GIB:.1f} GiB"
    return f"{amount / MIB:.0f} MiB" if amount >= MIB else f"{amount / KIB:.0f} KiB"
