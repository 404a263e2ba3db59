"""Checks of a saved state against the stream that loads it, made before anything is copied.

The checksum tells damage; these refuse what was made with another stream, or by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast

import torch
from torch import Tensor

from afstream.config import BackboneConfig
from afstream.engine.saved.kind import StreamKind
from afstream.engine.saved.layout import Layout, SavedScene
from afstream.kvcache.cache import FREE, RESERVED, held_names
from afstream.kvcache.policy import Anchors
from afstream.model.dit import TextContext
from afstream.validation import show_name

# of embeddings: prompt, row, value
EMBED_AXES = 3


def check_stream(theirs: Mapping[str, object], kind: StreamKind) -> None:
    """See that a state is of a stream that was opened alike; all checks raise `ValueError`."""
    for name, ours in kind.facts().items():
        if theirs.get(name) != ours:
            shown = show_name(theirs.get(name))
            raise ValueError(f"it is of another stream: its {name} is {shown}, here it is {ours}")


def check_weights(theirs: Mapping[str, object], text: TextContext | None, kind: StreamKind) -> None:
    """See that a state is of a model with the same weights, which projected its prompt alike."""
    if theirs.get("weights") != kind.weights(text):
        raise ValueError("it is of a model with other weights")


def check_layout(layout: Layout) -> None:
    """See that numbers agree with each other."""
    chunks = [change.chunk for change in layout.history]
    _need(chunks == sorted(chunks) and all(chunk <= layout.chunk for chunk in chunks), "history")
    _need(len(layout.pending) <= layout.chunk, "number of pending chunks")
    _need(layout.blend is None or layout.blend.done < layout.blend.chunks, "blend")


def check_values(values: Mapping[str, object], layout: Layout, kind: StreamKind) -> None:
    """See that tensors are of the sizes and dtypes that the stream needs."""
    names = ("embeds", "blend", "recent", "pending")
    _need(set(values) == set(names), "list of tensors")
    embeds, blend, recent, pending = (values[name] for name in names)
    rollout, lengths, scene = kind.rollout, kind.rollout.policy.lengths, layout.scene
    config, latents = rollout.model.config, (kind.shape, rollout.latent_dtype)

    if scene is not None:
        prompt = _like_prompt(embeds, config)
        _need(_are((embeds,), [prompt]), "prompt")
        _need(_are(blend, [prompt, prompt] if layout.blend else None), "blend")
    frame = scene.frame if scene else 0
    finished, rest = divmod(frame, lengths.chunk_frames)
    _need(not rest, "place in the scene")
    _need(_are(recent, [latents] * min(finished, lengths.window_chunks)), "recent latents")
    _need(isinstance(pending, tuple) and len(pending) == len(layout.pending), "pending chunks")
    for chunk in cast("tuple[object, ...]", pending):
        pair = chunk if isinstance(chunk, tuple) else ()
        count = (
            len(pair[1]) if len(pair) > 1 and isinstance(pair[1], Tensor) and pair[1].ndim else 0
        )
        frames = ((count, kind.size.height_px, kind.size.width_px, 3), torch.uint8)
        _need(_are(pair, [latents, frames]), "pending chunks")


def checked_anchors(scene: SavedScene, kind: StreamKind) -> Anchors:
    """The anchors that a scene's memory had."""
    start = kind.rollout.policy.start()
    fresh = asdict(start)
    _need(scene.anchors.keys() == fresh.keys(), "list of anchors")
    for name, value in scene.anchors.items():
        fits = fresh[name] is None if value is None else value <= scene.frame
        _need(fits, f"anchor {name}")
    return replace(start, **scene.anchors)


def checked_slots(
    scene: SavedScene, anchors: Anchors, tensors: Mapping[str, Tensor], kind: StreamKind
) -> dict[str, Tensor]:
    """Keys and values of a scene's memory, by the names of `KVCache.held`."""
    rollout, policy = kind.rollout, kind.rollout.policy
    first, *others = scene.slot_frames or (FREE,)
    chunk = policy.lengths.chunk_frames
    held = [frame for frame in others if frame != FREE]
    known = range(0, scene.frame, chunk)
    _need(first == RESERVED and len(others) == policy.num_slots, "number of slots")
    _need(len(set(held)) == len(held) and all(frame in known for frame in held), "slots")
    seen = {visible.frame for visible in policy.visible(anchors, scene.frame, chunk)}
    _need(seen - {scene.frame} <= set(held), "memory")
    layers, *shape = kind.slot_shape
    names = held_names(scene.slot_frames, layers)
    right = [(tuple(shape), rollout.model.dtype)] * len(names)
    _need(_are([tensors.get(name) for name in names], right), "keys and values")
    return {name: tensors[name] for name in names}


def _like_prompt(embeds: object, config: BackboneConfig) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and dtype that embeddings must have, whose rows and floats may be any."""
    whole = isinstance(embeds, Tensor) and embeds.ndim == EMBED_AXES and embeds.is_floating_point()
    _need(whole, "prompt")
    value = cast("Tensor", embeds)
    return (1, min(value.shape[1], config.text_len), config.text_dim), value.dtype


def _need(condition: object, part: str) -> None:
    if not condition:
        raise ValueError(f"its {part} cannot be that of this stream")


def _are(values: object, right: Sequence[tuple[Sequence[int], torch.dtype]] | None) -> bool:
    """Whether values are tensors of certain shapes and dtypes; None where there are to be none."""
    if right is None:
        return values is None
    if not isinstance(values, (tuple, list)) or len(values) != len(right):
        return False
    return all(
        isinstance(value, Tensor) and tuple(value.shape) == tuple(shape) and value.dtype == dtype
        for value, (shape, dtype) in zip(values, right, strict=True)
    )
