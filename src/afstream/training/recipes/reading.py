"""Recipes from TOML files, with single values changed on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afstream.errors import ConfigError
from afstream.training.recipes.tables import PocketRecipe, Recipe, WanRecipe
from afstream.validation import show_value, validated

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).parent
SUFFIX = ".toml"
KINDS: dict[str, type[PocketRecipe] | type[WanRecipe]] = {"pocket": PocketRecipe, "wan": WanRecipe}


def built_in() -> tuple[str, ...]:
    """Names of the recipes that ship."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def recipe_name(recipe: str) -> str:
    """Name of a recipe that ships, or of a TOML file without its folder and suffix."""
    # a name may hold a dot
    return Path(recipe).name.removesuffix(SUFFIX)


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe that ships, or a TOML file; each setting changes a `table.key=value`.

    Raises:
        ConfigError: there is no such recipe, or it says something that is not allowed; names
            file, table, key and value, and what is allowed.
    """
    path = FOLDER / f"{name}{SUFFIX}" if name in built_in() else Path(name)
    if path.suffix != SUFFIX or not os.path.isfile(path):  # noqa: PTH113  a path too long is none
        raise ConfigError(
            f"there is no recipe {show_value(name)}; choose one of {', '.join(built_in())}, or the"
            " path of a .toml file"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    # numbers of thousands of digits, and lists in lists in lists
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    for setting in settings:
        _change(values, setting)
    kind = values.get("model")
    if not isinstance(kind, str) or kind not in KINDS:
        known = ", ".join(KINDS)
        raise ConfigError(f"{path}: model is {show_value(kind)}; choose one of {known}")
    try:
        return validated(
            KINDS[kind], values, source=path.name, if_missing="a recipe names every key"
        )
    except RecursionError as error:
        raise ConfigError(f"{path.name} holds tables within tables without end") from error


def _change(values: dict[str, Any], setting: str) -> None:
    """Put one `table.key=value` into a recipe; it is checked with everything else."""
    name, equals, text = setting.partition("=")
    *tables, key = name.strip().split(".")
    place: Any = values
    given = show_value(setting)
    if not equals or not key:
        raise ConfigError(f"--set is {given}; write it as table.key=value")
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set is {given}, but {table} is no table of the recipe")
    try:
        place[key] = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError) as error:
        if not isinstance(error, tomllib.TOMLDecodeError):
            raise ConfigError(f"--set is {given}, which no recipe can hold: {error}") from error
        # a path or a name, written without quotes as a shell has it
        place[key] = text.strip()
