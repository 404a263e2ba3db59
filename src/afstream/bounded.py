"""Files and JSON from anywhere, read within bounds of size, nesting and number of values.

Bounds lie far above what real files need: what is beyond them is damaged, or made to hurt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

MB = 1_000_000
MAX_DEPTH = 64
# of one whole number
MAX_DIGITS = 40
MAX_VALUES = 100_000

STRING = re.compile(r'"[^"]*"?')
# everything else tells nothing of nesting and number
FILLING = re.compile(r"[^\[\]{},]+")
STEPS = {"[": 1, "{": 1, "]": -1, "}": -1, ",": 0}


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """All bytes of a file, which may be a link to one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe, a device or a folder, or too large; says which.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        return read_all(file, most_bytes)


def read_all(file: BinaryIO, most_bytes: int) -> bytes:
    """All bytes of an open file; `ValueError` if there are more than that."""
    data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes / MB:g} MB")
    return data


def parse_json(text: str, *, most_values: int = MAX_VALUES) -> Any:  # noqa: ANN401  JSON is anything
    """What a text of JSON holds.

    Raises:
        ValueError: it is no JSON, which is a `json.JSONDecodeError`; or it is nested too deeply,
            holds too many values, too long a number or a name twice; says which.
    """
    # escaped quotes would end a string too early; pairs of backslashes go first
    plain = text.replace("\\\\", "").replace('\\"', "")
    skeleton = FILLING.sub("", STRING.sub("", plain))
    if len(skeleton) - skeleton.count("]") - skeleton.count("}") > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    if max(accumulate(map(STEPS.__getitem__, skeleton)), default=0) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return json.loads(text, parse_int=_whole, object_pairs_hook=_unique)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number in it has {len(digits):,} digits")
    return int(digits)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it says something twice under one name")
    return found
