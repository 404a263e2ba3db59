"""What was put around weights when they were saved, undone for students, VAEs and text encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from afstream.checkpoints.names import plain_name, wan_name
from afstream.errors import CheckpointError
from afstream.text import some_of
from afstream.validation import show_name


def unwrapped(content: object, path: Path) -> object:
    """The weights of a file that holds nothing else of use: `{"state_dict": weights, "epoch": 3}`.

    Raises:
        CheckpointError: it holds several sets of weights.
    """
    if not isinstance(content, dict) or is_weights(content):
        return content
    sets = {str(name): value for name, value in content.items() if is_weights(value)}
    if len(sets) > 1:
        raise CheckpointError(
            f"{path} holds several sets of weights, {some_of([*map(show_name, sets)])}; give a file"
            " of one of them"
        )
    return next(iter(sets.values()), content)


def is_weights(content: object) -> TypeGuard[dict[Any, Any]]:
    """Whether tensors stand in a dict itself."""
    return isinstance(content, dict) and any(isinstance(one, Tensor) for one in content.values())


def renamed(
    weights: dict[str, Tensor], path: Path, rename: Callable[[str], str] = plain_name
) -> dict[str, Tensor]:
    """Weights under other names; without what stands around them, unless another way is given.

    Raises:
        CheckpointError: two would have one name.
    """
    before: dict[str, str] = {}
    for name in weights:
        other = before.setdefault(rename(name), name)
        if other != name:
            raise CheckpointError(
                f"{path} holds one weight twice, as {show_name(other)} and {show_name(name)}; give"
                " a file of one model"
            )
    return {name: weights[old] for name, old in before.items()}


def in_wan_names(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A backbone's weights under Wan's names; see `renamed`."""
    return renamed(weights, path, wan_name)
