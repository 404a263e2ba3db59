"""Saved states: a stream's whole state in one safetensors file, from which it goes on bit for bit.

A file is written whole or not at all, with a checksum in its header. Reading checks everything
before anything is changed, and runs no code from the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from afstream.atomic import replace_file
from afstream.checkpoints.safetensors import map_checked, read_header, write_checked
from afstream.engine.saved.checks import (
    check_layout,
    check_stream,
    check_values,
    check_weights,
    checked_anchors,
    checked_slots,
)
from afstream.engine.saved.kind import StreamKind
from afstream.engine.saved.layout import (
    VERSION,
    Layout,
    SavedBlend,
    SavedChange,
    SavedCue,
    SavedPending,
    SavedScene,
)
from afstream.engine.saved.nested import Unpacker, pack
from afstream.engine.state import Change, StreamState
from afstream.errors import AfstreamError, CheckpointError, ConfigError, OutputError, reason_of
from afstream.kvcache.policy import Anchors
from afstream.model.dit import TextContext
from afstream.validation import show_value, validated

# in the file's metadata
LAYOUT, FORMAT_VERSION = "afstream_state", "afstream_state_version"
WHAT = "the saved state"


class SavedState(NamedTuple):
    """A state that was saved.

    Attributes:
        chunk: index of the chunk that a stream which loads it yields next.
        num_bytes: size of the file.
    """

    chunk: int
    num_bytes: int


class Content(NamedTuple):
    """A saved state as it was read and checked, its large tensors still views of the file.

    Attributes:
        layout: numbers and texts.
        history: the prompt changes.
        anchors: of the scene; None without one.
        held: keys and values of the cache.
        values: the other tensors, on their devices, the decoder's state aside.
        decoder: makes the decoder's state.
        text: the prompt, projected; None without a scene.
    """

    layout: Layout
    history: list[Change]
    anchors: Anchors | None
    held: Mapping[str, Tensor]
    values: dict[str, Any]
    decoder: Callable[[], Any]
    text: TextContext | None


def write_state(path: Path, state: StreamState, kind: StreamKind) -> SavedState:
    """Save a state, of which all work must be done.

    Raises:
        OutputError: it cannot be written; what was at the path is left as it was.
        ConfigError: the decoder's state holds something that cannot be saved.
    """
    tensors: dict[str, Tensor] = {}
    layout = _layout(state, kind, tensors)
    if state.rollout is not None:
        tensors |= state.rollout.cache.held()
    metadata = {FORMAT_VERSION: str(VERSION), LAYOUT: json.dumps(layout.model_dump())}
    try:
        with replace_file(path, what=WHAT) as file:
            write_checked(file, tensors, metadata)
            return SavedState(state.position, file.tell())
    except ValueError as error:
        raise OutputError(f"cannot write {WHAT} {path}: {error}") from error


def state_bytes(state: StreamState, kind: StreamKind) -> int:
    """Bytes of a saved state whose memory is full, its header aside."""
    tensors: dict[str, Tensor] = {}
    _pack({**_values(state), "recent": ()}, tensors, kind)
    return kind.memory_bytes + sum(each.numel() * each.itemsize for each in tensors.values())


def read_layout(path: Path) -> Layout:
    """Numbers and texts of a saved state, without its tensors; raises what `read_state` raises."""
    try:
        _refuse_other(path)
        return _layout_of(path, read_header(path).metadata)
    except (OSError, ValueError) as error:
        raise unusable(path, error) from error


def read_state(path: Path, kind: StreamKind) -> Content:
    """Read a saved state and check all of it but the decoder's own state.

    Raises:
        CheckpointError: it is missing, cut, damaged, of another version, or of another stream.
    """
    try:
        _refuse_other(path)
        metadata, tensors = map_checked(path)
        layout = _layout_of(path, metadata)
        check_stream(layout.stream, kind)
        check_layout(layout)
        history = layout.changes()
        unpacker = Unpacker(tensors, kind.rollout.model.device, kind.decoder_module)
        packed = dict(layout.values)
        decoder = packed.pop("decoder", None)
        values = {name: unpacker.unpack(value) for name, value in packed.items()}
        check_values(values, layout, kind)
        anchors, held, text = None, dict[str, Tensor](), None
        if layout.scene is not None:
            anchors = checked_anchors(layout.scene, kind)
            held = checked_slots(layout.scene, anchors, tensors, kind)
            text = kind.rollout.model.text_context(values["embeds"])
        check_weights(layout.stream, text, kind)
    except CheckpointError:
        raise
    except (OSError, ValueError, AfstreamError) as error:
        raise unusable(path, error) from error
    return Content(layout, history, anchors, held, values, lambda: unpacker.unpack(decoder), text)


def unusable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that is no saved state of this stream."""
    reason = reason_of(error) if isinstance(error, OSError) else str(error)
    return CheckpointError(
        f"{WHAT} {path} cannot be used: {reason}; give one that a stream opened like this one saved"
    )


def _values(state: StreamState) -> dict[str, Any]:
    """All tensors but those of the cache."""
    rollout, blend = state.rollout, state.blend
    return {
        "decoder": state.decoder,
        "embeds": state.embeds,
        "blend": blend and (blend.start, blend.goal),
        "recent": tuple(rollout.recent) if rollout else (),
        "pending": tuple((each.latents, each.frames) for each in state.pending),
    }


def _pack(
    values: Mapping[str, Any], tensors: dict[str, Tensor], kind: StreamKind
) -> dict[str, Any]:
    try:
        return {
            name: pack(value, tensors, module=kind.decoder_module) for name, value in values.items()
        }
    except TypeError as error:
        raise ConfigError(
            f"the decoder's own state holds a {error}, which cannot be saved; it may hold tensors,"
            f" numbers, texts, and named tuples and dataclasses of {kind.decoder_module}"
        ) from error


def _layout(state: StreamState, kind: StreamKind, tensors: dict[str, Tensor]) -> Layout:
    rollout, blend = state.rollout, state.blend
    return Layout(
        stream={**kind.facts(), "weights": kind.weights(rollout.text if rollout else None)},
        seed=state.seed,
        first_seed=state.first_seed,
        history=tuple(
            SavedChange(chunk=change.chunk, cue=SavedCue.of(change.cue)) for change in state.history
        ),
        chunk=state.chunk,
        segment=state.segment,
        video_frame=state.video_frame,
        prompt=state.prompt,
        scene=rollout
        and SavedScene(
            frame=rollout.frame,
            slot_frames=tuple(rollout.cache.slot_frames),
            anchors=asdict(rollout.cache.anchors),
        ),
        blend=blend and SavedBlend(chunks=blend.chunks, done=blend.done),
        pending=tuple(map(SavedPending.of, state.pending)),
        values=_pack(_values(state), tensors, kind),
    )


def _refuse_other(path: Path) -> None:
    """Refuse what is there and is no file; a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")


def _layout_of(path: Path, metadata: Mapping[str, str]) -> Layout:
    version = metadata.get(FORMAT_VERSION)
    if version is None:
        raise ValueError("it is no saved state of a stream")
    if version != str(VERSION):
        raise ValueError(
            f"it has version {show_value(version)} of the format; this afstream reads {VERSION}"
        )
    try:
        data = json.loads(metadata[LAYOUT])
    except (KeyError, RecursionError, ValueError) as error:
        raise ValueError("its header is damaged") from error
    return validated(Layout, data, source=f"{WHAT} {path}", error=CheckpointError)
