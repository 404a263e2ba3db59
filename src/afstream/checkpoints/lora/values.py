"""Values of a LoRA's settings: numbers, flags, and numbers by patterns of layers' names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from afstream.errors import CheckpointError
from afstream.validation import show_name, show_value

NOTHING = (None, False, "", "none", "None", "null", "false", "False", "Dynamic")
YES = (True, 1, "1", "true", "True")
NO = (*NOTHING, 0, "0")

# a model of 256 layers has no more matrices
MAX_PATTERNS = 3000
# a pattern with more of these, or with one behind a group, may take for ever
MAX_REPEATS = 2
# PEFT holds a pattern against a name, or its end behind a dot
PATTERN_START, PATTERN_END = r"(?:.*\.)?(?:", r")\Z"
REPEATS = re.compile(r"[*+?{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")


class Said(NamedTuple):
    """A number, and where it stands."""

    where: str
    value: float


def is_nothing(value: object) -> bool:
    """Whether a setting says nothing."""
    if isinstance(value, (list, dict)):
        return not value
    return value is False or (not isinstance(value, (Tensor, int, float)) and value in NOTHING)


def flag(value: Any, where: str, path: Path) -> bool:  # noqa: ANN401  whatever a file holds
    """A setting that is true or false.

    Raises:
        CheckpointError: it is neither.
    """
    if not isinstance(value, (list, dict, Tensor)):
        if value in YES:
            return True
        if value in NO:
            return False
    raise CheckpointError(f"{path}: {where} is {show_value(value)}; it must be true or false")


def patterns(value: Any, word: str, where: str, path: Path) -> dict[re.Pattern[str], float]:  # noqa: ANN401  whatever a file holds
    """Numbers by patterns of layers' names.

    Raises:
        CheckpointError: they are none, or a pattern is none that is understood.
    """
    if not value:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_PATTERNS:
        raise CheckpointError(
            f"{path}: {where} is {show_value(value)}; it must be numbers by names of layers, at"
            f" most {MAX_PATTERNS}"
        )
    found = dict[re.Pattern[str], float]()
    entries: Iterable[tuple[Any, Any]] = value.items()
    for key, said in entries:
        pattern = _pattern(str(key))
        if pattern is None:
            raise CheckpointError(
                f"{path}: {where} names {show_name(key)}, which is no pattern of layers that is"
                " understood; give another LoRA"
            )
        found[pattern] = number(said, path, f"{word} {show_name(key)}")
    return found


def _pattern(key: str) -> re.Pattern[str] | None:
    if len(REPEATS.findall(key)) > MAX_REPEATS or REPEATED_GROUP.search(key):
        return None
    try:
        return re.compile(f"{PATTERN_START}{key}{PATTERN_END}")
    except (re.error, OverflowError, RecursionError):
        return None


def number(value: Any, path: Path, name: str, *, what: str = "alpha") -> float:  # noqa: ANN401
    """An alpha or a rank, as a number, a text or a tensor of one value.

    Raises:
        CheckpointError: it is no finite number.
    """
    try:
        found = float(value)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        shown = show_value(value)
        if isinstance(value, Tensor):
            shown = show_value(found) if value.numel() == 1 else f"of shape {tuple(value.shape)}"
        raise CheckpointError(
            f"{path}: the {what} of {show_name(name)} is {shown}; it must be a finite number, so"
            " give another LoRA"
        )
    return found
