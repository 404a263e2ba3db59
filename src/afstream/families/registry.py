"""The families of models: one row each. A spec belongs to the first family that names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from afstream.errors import CheckpointError, ConfigError
from afstream.families.base import ModelFamily
from afstream.families.pocket.family import POCKET
from afstream.families.presets import memory_of
from afstream.families.random.family import RANDOM
from afstream.families.wan.family import WAN
from afstream.geometry import ChunkClock
from afstream.paths import expanded, fetching
from afstream.spec import ModelSpec, StreamConfig

if TYPE_CHECKING:
    from afstream.checkpoints.findings import Finding

FAMILIES: dict[str, ModelFamily] = {family.name: family for family in (POCKET, WAN, RANDOM)}


def family_of(spec: ModelSpec) -> ModelFamily:
    """The family of a model.

    Raises:
        CheckpointError: no family knows it, or it is a path out of reach.
        ConfigError: the spec asks for something that its family cannot take.
    """
    reason, hint = f"there is no model {spec.name!r}", fetching(spec.name)
    try:
        family = next((one for one in FAMILIES.values() if one.names(spec)), None)
    except OSError as error:
        family, hint = None, ""
        reason = f"the model {spec.name!r} cannot be reached: {error.strerror}"
    if family is None:
        *others, last = (one.given_as for one in FAMILIES.values())
        raise CheckpointError(f"{reason}; give {', '.join(others)}, or {last}{hint}")
    for addition in spec.additions:
        if addition not in family.takes:
            others = [one.given_as for one in FAMILIES.values() if addition in one.takes]
            raise ConfigError(
                f"the model {spec.name!r} takes no {addition}; that needs {' or '.join(others)} as"
                " the model"
            )
    return family


def identify(path: Path) -> Finding:
    """What a file, a folder or a model's name is, as the first family says that knows it.

    Raises:
        CheckpointError: it is out of reach, damaged, or no checkpoint.
    """
    hint, path = fetching(str(path)), Path(expanded(str(path)))
    reason, unknown = f"there is nothing at {path}", None
    try:
        for family in FAMILIES.values():
            found = family.identify(path)
            if found is not None and found.kind != "unknown":
                return found
            unknown = found or unknown
    except OSError as error:
        reason, hint = f"{path} cannot be reached: {error.strerror}", ""
    if unknown is None:
        raise CheckpointError(f"{reason}; give the path of a file or a folder{hint}")
    return unknown


def clock_of(config: StreamConfig) -> ChunkClock:
    """The lengths of a stream's chunks and frames, told before its model is loaded.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: unknown memory or preset, or what the model cannot take.
    """
    family = family_of(config.model)
    chunk_frames = memory_of(config, family.lengths).lengths.chunk_frames
    return ChunkClock(format=family.format, chunk_frames=chunk_frames)
