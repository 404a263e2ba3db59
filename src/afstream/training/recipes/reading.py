"""Recipes from TOML, every key checked: its name, its type and its limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from afstream.errors import AfstreamError, ConfigError
from afstream.training.machinery.limits import Limits
from afstream.training.recipes.tables import PocketRecipe, Recipe, WanRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).parent
SUFFIX = ".toml"
KINDS: dict[str, type[PocketRecipe] | type[WanRecipe]] = {"pocket": PocketRecipe, "wan": WanRecipe}
# types as people write them in TOML
WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}

T = TypeVar("T")


def built_in() -> tuple[str, ...]:
    """Names of the recipes that ship."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: of one that ships, or the path of a TOML file.
        settings: changes, each `table.key=value`.

    Raises:
        ConfigError: there is no such recipe, or it says something that is not allowed.
    """
    path = FOLDER / f"{name}{SUFFIX}" if name in built_in() else Path(name)
    if path.suffix != SUFFIX or not path.is_file():
        raise ConfigError(
            f"there is no recipe {name!r}; choose one of {', '.join(built_in())}, or the path of"
            " a .toml file"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    for setting in settings:
        _change(values, setting)
    kind = values.get("model")
    if kind not in KINDS:
        raise ConfigError(f"{path}: model is {kind!r}; choose one of {', '.join(KINDS)}")
    return read_table(KINDS[kind], values, path.name, "")


def read_table(kind: type[T], values: Mapping[str, Any], file: str, table: str) -> T:
    """Build a dataclass from all of its keys and nothing else.

    Args:
        kind: the dataclass; its annotations say what is allowed.
        values: of the table.
        file: where they stand, for errors.
        table: its name, empty for the whole file.

    Raises:
        ConfigError: names file, table and key, and what is allowed.
    """
    place = f"{file}, [{table}]" if table else file
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := [key for key in values if key not in names]:
        raise ConfigError(f"{place}: unknown key {unknown[0]!r}; it may hold {', '.join(names)}")
    if missing := [name for name in names if name not in values]:
        raise ConfigError(f"{place}: {missing[0]} is missing; a recipe names every key")
    found: dict[str, Any] = {}
    for name in names:
        hint = hints[name]
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(values[name], Mapping):
                raise ConfigError(f"{place}: {name} is {values[name]!r}; it must be a table")
            inner = f"{table}.{name}" if table else name
            found[name] = read_table(hint, values[name], file, inner)
        else:
            found[name] = _read(values[name], hint, f"{place}: {name}")
    try:
        return kind(**found)
    except AfstreamError as error:
        raise ConfigError(f"{place}: {error}") from error


def _read(value: Any, hint: Any, place: str) -> Any:  # noqa: ANN401 - whatever TOML holds
    """One value as its annotation wants it."""
    limits: Limits | None = None
    if get_origin(hint) is Annotated:
        hint, limits = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{place} is {value!r}; choose one of {', '.join(get_args(hint))}")
        return value
    if get_origin(hint) is tuple:
        return _read_list(value, get_args(hint), place)
    # TOML writes 1 for 1.0, and Python takes True for 1
    fits = type(value) is hint or (hint is float and type(value) is int)
    if not fits or (limits and not limits.allow(value)):
        wanted = WORDS[hint] + (f", {limits}" if limits else "")
        raise ConfigError(f"{place} is {_shown(value)}; it must be {wanted}")
    return hint(value)


def _read_list(value: Any, hints: tuple[Any, ...], place: str) -> tuple[Any, ...]:  # noqa: ANN401
    """A list of one kind and any length, or of as many values as there are kinds."""
    any_length = hints[-1] is Ellipsis
    if not isinstance(value, list) or not value or (not any_length and len(value) != len(hints)):
        length = "of one or more" if any_length else f"of {len(hints)}"
        raise ConfigError(f"{place} is {_shown(value)}; it must be a list {length}")
    kinds = hints[:1] * len(value) if any_length else hints
    return tuple(_read(item, hint, place) for item, hint in zip(value, kinds, strict=True))


def _change(values: dict[str, Any], setting: str) -> None:
    """Bring one `table.key=value` in; whether it fits is checked with everything else."""
    name, equals, text = setting.partition("=")
    *tables, key = name.strip().split(".")
    place: Any = values
    if not equals or not key:
        raise ConfigError(f"--set is {setting!r}; write it as table.key=value")
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set is {setting!r}, but {table} is no table of the recipe")
    try:
        place[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # a path or a name, written without quotes as a shell has it
        place[key] = text.strip()


def _shown(value: Any) -> str:  # noqa: ANN401
    """A value as TOML writes it, as far as people care."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
