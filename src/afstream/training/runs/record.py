"""`recipe.json`: the recipe of a run, and from which step on it was another one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afstream.atomic import write_text
from afstream.errors import ConfigError
from afstream.training.recipes.tables import Recipe
from afstream.training.trainer.settings import Whole
from afstream.validation import Checked, show_name, show_value, validated

RECORD = "recipe.json"
CHANGES = "changes"
# keys that an error names
MOST_NAMED = 3
ABSENT = "absent"

Tables = dict[str, Any]


class Change(Checked):
    """Keys of the recipe that were changed when a stage had done some of its steps.

    Attributes:
        stage: the stage.
        step: its steps before the change, all under the old values; 0 without steps.
        finished: whether it had ended, so that the new values never counted for it.
        changes: old and new value by key, such as `teacher.lr`.
    """

    stage: str
    step: Whole
    finished: bool
    changes: dict[str, tuple[Any, Any]]


class _Changes(Checked):
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The recipe that holds for what comes next, as JSON has it, and all changes."""

    recipe: Tables
    changes: Sequence[Change] = ()

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            OutputError: the system refuses.
        """
        content = dict(self.recipe)
        if self.changes:
            content[CHANGES] = [one.model_dump() for one in self.changes]
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_text(folder / RECORD, text + "\n")

    def ran(self) -> dict[str, Any]:
        """For a model's metadata: finished stages as they ran, and all changes."""
        recipe: Tables = json.loads(json.dumps(self.recipe))
        for change in reversed(self.changes):
            for key, (before, _) in change.changes.items() if change.finished else ():
                table, _, name = key.partition(".")
                if table == change.stage:
                    recipe[table][name] = before
        return {"recipe": recipe, CHANGES: [one.model_dump() for one in self.changes]}


def tables(recipe: Recipe) -> Tables:
    """A recipe as JSON has it."""
    return json.loads(json.dumps(recipe.model_dump()))


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder, None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    remedy = "remove it, and --resume goes on with the recipe as it is given now"
    # a pipe would be waited for
    if not path.is_file():
        raise ConfigError(f"{path} is no ordinary file; {remedy}")
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or not all(map(_is_table, content.items())):
            raise ConfigError(f"{path} holds no recipe; {remedy}")
    except (OSError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a run's recipe; {remedy}") from error
    listed = {CHANGES: content.pop(CHANGES, [])}
    found = validated(_Changes, listed, source=str(path), remedy=remedy)
    return Record(recipe=content, changes=found.changes)


def _is_table(entry: tuple[str, object]) -> bool:
    """Whether an entry has the form of those of a recipe."""
    name, value = entry
    wanted = {"model": str, CHANGES: list}.get(name, dict)
    return isinstance(value, wanted)


def differences(before: Tables, now: Tables) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each key that differs, such as `teacher.lr`."""
    old, new = _keys(before), _keys(now)
    return {
        key: (old.get(key, ABSENT), new.get(key, ABSENT))
        for key in {**new, **old}
        if key not in old or key not in new or old[key] != new[key]
    }


def _keys(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for table, value in content.items():
        entries = value.items() if isinstance(value, dict) else ((None, value),)
        found |= {f"{table}.{name}" if name else table: each for name, each in entries}
    return found


def _shown(value: object) -> str:
    return ABSENT if value == ABSENT else show_value(value)


def refusal(folder: Path, differing: Mapping[str, tuple[Any, Any]]) -> str:
    """The sentence for a run that was begun with another recipe."""
    named = [
        f"{show_name(key)} {_shown(old)} → {_shown(new)}"
        for key, (old, new) in list(differing.items())[:MOST_NAMED]
    ]
    if more := len(differing) - len(named):
        named.append(f"{more} more")
    return (
        f"{folder} was begun with another recipe ({', '.join(named)}); give the recipe as it was,"
        " or --accept-changes to go on with the new one"
    )
