"""What files say, checked against a model of what they may say; a fault is one sentence.

The rules stand once, in the annotations of a `Checked` class; the sentence is made from them.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from afstream.errors import AfstreamError, ConfigError

T = TypeVar("T")
Location = tuple[int | str, ...]

# types as people write them in TOML and JSON
WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
}
A_TABLE = "a table"
UNIONS = (Union, types.UnionType)
# behind the place of a name that must not be
KEY = "[key]"
# characters of a value that an error repeats
SHOWN = 60


class Checked(BaseModel):
    """Settings from a file: frozen, each of exactly its type, no unknown names, no NaN.

    Lists in the file are tuples here. Limits are pydantic's: `Annotated[int, Field(ge=1)]`; the
    `description` of a field takes the place of "a whole number, at least 1" in the sentence.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class SettingsFile(Checked):
    """Settings of which others than ours may be there; these are ignored."""

    model_config = ConfigDict(extra="ignore")


def validated(
    model: type[T],
    data: object,
    *,
    source: str,
    remedy: str = "",
    if_missing: str = "",
    error: type[AfstreamError] = ConfigError,
) -> T:
    """Build a model from what a file holds.

    Args:
        model: says what is allowed: a `Checked` class, or a dataclass, of which unknown names are
            ignored.
        data: the file's content as `json` or `tomllib` gives it.
        source: the file, as the sentence begins.
        remedy: what to do, at the sentence's end; empty where what is allowed says it.
        if_missing: the same where a name is missing; the remedy unless given.
        error: the class of the error.

    Raises:
        AfstreamError: of class `error`: names source, table, field and value, what is allowed
            and the remedy. Of several faults the first is told, unknown names before others.
    """
    make: Any = model
    checker: type[Checked] = make if issubclass(model, Checked) else _checker_of(make)
    try:
        found: Any = checker.model_validate(_with_tuples(data))
        return found if isinstance(found, make) else make(**dict(found))
    except ConfigError as caught:
        # what the dataclass itself refuses
        raise error("; ".join(filter(None, (f"{source}: {caught}", remedy)))) from caught
    except ValidationError as caught:
        faults = caught.errors(include_url=False)
        fault = min(faults, key=lambda one: one["type"] != "extra_forbidden")
        words = f"{source}{_sentence(checker, fault)}"
        ending = (if_missing or remedy) if _is_missing(fault) else remedy
        raise error(f"{words}; {ending}" if ending else words) from caught


@cache
def _checker_of(kind: type[Any]) -> type[Checked]:
    """The fields of a dataclass as a model."""
    hints = get_type_hints(kind, include_extras=True)
    made: dict[str, Any] = {
        one.name: (hints[one.name], ... if one.default is MISSING else one.default)
        for one in fields(kind)
    }
    return create_model(kind.__name__, __base__=SettingsFile, **made)


def show_value(value: object) -> str:
    """A value as TOML and JSON write it, as far as people care, on one line and not too long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def show_name(name: object) -> str:
    """A name in a file as it is; what no person would call a name is shown as a value."""
    plain = isinstance(name, str) and name.isprintable() and len(name) <= SHOWN
    return str(name) if plain else show_value(name)


def _is_missing(fault: ErrorDetails) -> bool:
    # a list that is too short lacks a number, not a name
    return fault["type"] == "missing" and isinstance(fault["loc"][-1], str)


def _sentence(model: type[Checked], fault: ErrorDetails) -> str:
    """Everything behind the source's name."""
    loc, kind = fault["loc"], fault["type"]
    if kind == "missing" and not _is_missing(fault):
        loc = loc[:-1]
    inner, hint, table = _walk(model, loc)
    if kind == "value_error" and _is_model(_peeled(hint)[0]):
        table = loc
    # an item of a list goes by the list's name
    parts = [part for part in loc[len(table) :] if isinstance(part, str)]
    named = [show_name(part) for part in parts if part != KEY]
    name = named[-1] if named else ""
    place = f", [{'.'.join(map(show_name, table))}]: " if table else ": "
    names = ", ".join(_fields(inner))
    if kind == "extra_forbidden":
        near = get_close_matches(str(loc[-1]), _fields(inner), n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        return f"{place}unknown key {show_value(loc[-1])}{meant}; it may hold {names}"
    if _is_missing(fault):
        return f"{place}{name} is missing"
    given = f"{place}{name} is" if name else f"{place}it is"
    shown = show_value(fault["input"])
    if kind == "value_error":
        said = str(fault.get("ctx", {}).get("error", fault["msg"]))
        return f"{given} {shown}; {said}" if name else f"{place}{said}"
    if get_origin(choice := _peeled(hint)[0]) is Literal:
        return f"{given} {shown}; choose one of {', '.join(map(show_name, get_args(choice)))}"
    return f"{given} {shown}; it must be {allowed(hint)}"


def _walk(model: type[Checked], loc: Location) -> tuple[type[Checked], Any, Location]:
    """The model in which a fault lies, the annotation there, and the names of the tables."""
    inner, hint, depth = model, model, 0
    for index, part in enumerate(loc):
        plain, _ = _peeled(hint)
        if _is_model(plain):
            inner, depth = plain, index
            hint = _fields(plain).get(str(part), Any)
        elif get_origin(plain) is tuple and isinstance(part, int):
            items = get_args(plain)
            hint = items[0] if items[-1] is Ellipsis else items[part]
        elif part != KEY:
            # of a mapping
            name, value = (*get_args(plain), Any, Any)[:2]
            hint = name if KEY in loc[index:] else value
    return inner, hint, loc[:depth]


def _is_model(hint: Any) -> TypeGuard[type[Checked]]:  # noqa: ANN401  an annotation may be anything
    return isinstance(hint, type) and issubclass(hint, Checked)


def _fields(model: type[Checked]) -> dict[str, Any]:
    """Annotations by the names that a file uses."""
    return {
        info.alias or name: Annotated[info.annotation, info]
        for name, info in model.model_fields.items()
    }


def _peeled(hint: Any) -> tuple[Any, list[Any]]:  # noqa: ANN401  an annotation may be anything
    """An annotation's type, and everything that limits it; `X | None` counts as X."""
    limits = list[Any]()
    while True:
        if get_origin(hint) is Annotated:
            hint, *added = get_args(hint)
            for one in added:
                limits += [*one.metadata, one] if isinstance(one, FieldInfo) else [one]
        elif get_origin(hint) in UNIONS and types.NoneType in get_args(hint):
            hint = next(one for one in get_args(hint) if one is not types.NoneType)
        else:
            return hint, limits


def allowed(hint: Any) -> str:  # noqa: ANN401  an annotation may be anything
    """What an annotation allows, in words; null is not worth one."""
    plain, limits = _peeled(hint)
    told = [one.description for one in limits if isinstance(one, FieldInfo) and one.description]
    if told:
        return told[-1]
    if get_origin(plain) in UNIONS:
        return ", or ".join(map(allowed, get_args(plain)))
    if get_origin(plain) is Literal:
        return f"one of {', '.join(map(show_name, get_args(plain)))}"
    if get_origin(plain) is tuple:
        least = max((one.min_length for one in limits if isinstance(one, MinLen)), default=0)
        if get_args(plain)[-1] is not Ellipsis:
            least = len(get_args(plain))
        elif not any(isinstance(one, MaxLen) for one in limits):
            return "a list of one or more" if least else "a list"
        return f"a list of {least}"
    return ", ".join([WORDS.get(plain, A_TABLE), *filter(None, [_range(limits)])])


def _range(limits: list[Any]) -> str:
    """Bounds of a number, in words."""
    low = next((one.ge for one in limits if isinstance(one, Ge)), None)
    high = next((one.le for one in limits if isinstance(one, Le)), None)
    above = next((one.gt for one in limits if isinstance(one, Gt)), None)
    below = next((one.lt for one in limits if isinstance(one, Lt)), None)
    if low is not None and high is not None:
        return f"{_bound(low)} to {_bound(high)}"
    words = (("at least", low), ("above", above), ("at most", high), ("below", below))
    return " and ".join(f"{word} {_bound(one)}" for word, one in words if one is not None)


def _bound(value: Any) -> str:  # noqa: ANN401  whatever can be compared
    """A bound as people write it: whole numbers with all of their digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _with_tuples(data: object) -> object:
    """Lists as tuples: strict types make no difference between them otherwise."""
    if isinstance(data, Mapping):
        return {name: _with_tuples(value) for name, value in data.items()}
    return tuple(map(_with_tuples, data)) if isinstance(data, list) else data
