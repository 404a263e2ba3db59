"""Random clips of the pocket world, with captions: endless training data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afstream.families.pocket.captions import ATTRIBUTES, caption
from afstream.families.pocket.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Clip,
    Scene,
    Segment,
    Subject,
    chunk_start,
)


def _pick(rng: np.random.Generator, choices: tuple[str, ...], *, but: str = "") -> str:
    left = [choice for choice in choices if choice != but]
    return left[int(rng.integers(len(left)))]


def random_subject(rng: np.random.Generator) -> Subject:
    """Any shape in any colour."""
    return Subject(_pick(rng, SHAPES), _pick(rng, COLOURS))


def random_scene(rng: np.random.Generator, *, companion_share: float = 0.25) -> Scene:
    """Any scene; `companion_share` of them have a companion."""
    return Scene(
        subject=random_subject(rng),
        motion=_pick(rng, MOTIONS),
        background=_pick(rng, BACKGROUNDS),
        companion=random_subject(rng) if rng.random() < companion_share else None,
    )


# how often each attribute is the one that a switch changes
CHANGE_WEIGHTS = {
    "motion": 0.45,
    "colour": 0.15,
    "background": 0.15,
    "shape": 0.12,
    "companion": 0.13,
}

# share of switches that change one attribute; the others change two
ONE_CHANGE_SHARE = 0.65
# share of the unchanged attributes that an under-specified caption leaves out
OMIT_SHARE = 0.75
# share of full captions that do not speak of a companion which is there already
COMPANION_UNTOLD_SHARE = 0.4


def change_scene(scene: Scene, rng: np.random.Generator) -> tuple[Scene, frozenset[str]]:
    """A scene that differs in one or two attributes, and the names of these."""
    names = [n for n in CHANGE_WEIGHTS if n != "companion" or scene.companion is None]
    weights = np.array([CHANGE_WEIGHTS[name] for name in names])
    count = 1 if rng.random() < ONE_CHANGE_SHARE else 2
    chosen = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
    changed = frozenset(names[index] for index in chosen)

    def other(name: str, choices: tuple[str, ...], value: str) -> str:
        return _pick(rng, choices, but=value) if name in changed else value

    subject = Subject(
        other("shape", SHAPES, scene.subject.shape), other("colour", COLOURS, scene.subject.colour)
    )
    after = Scene(
        subject=subject,
        motion=other("motion", MOTIONS, scene.motion),
        background=other("background", BACKGROUNDS, scene.background),
        companion=random_subject(rng) if "companion" in changed else scene.companion,
    )
    return after, changed


def leave_out(kept: Sequence[str], rng: np.random.Generator) -> frozenset[str]:
    """What an under-specified caption leaves out of the attributes that stay, at least one."""
    chosen = {name for name in kept if rng.random() < OMIT_SHARE}
    # without a motion the sentence is news, and news speaks of changes only
    return frozenset(kept if "motion" in chosen else chosen or {_pick(rng, tuple(kept))})


def follow_up(
    before: Scene, rng: np.random.Generator, *, partial_share: float = 0.5
) -> tuple[Scene, str]:
    """A scene to switch to, and its caption; `partial_share` of these leave something out."""
    scene, changed = change_scene(before, rng)
    kept = sorted(ATTRIBUTES - changed - (frozenset() if scene.companion else {"companion"}))
    omit = frozenset[str]()
    if rng.random() < partial_share:
        omit = leave_out(kept, rng)
    elif "companion" in kept and rng.random() < COMPANION_UNTOLD_SHARE:
        omit = frozenset({"companion"})
    return scene, caption(scene, rng, omit=omit, before=before)


def random_clip(
    rng: np.random.Generator, *, num_switches: int = 0, num_chunks: int = 7, first_chunk: int = 1
) -> Clip:
    """A clip of chunks (7 are 81 frames) that changes its scene at `num_switches` chunk starts."""
    chunks = np.arange(max(first_chunk, 1), num_chunks)
    if num_switches > len(chunks):
        raise ValueError(f"{num_switches} switches need as many chunks; {len(chunks)} are free")
    scene = random_scene(rng)
    segments = [Segment(start=0, scene=scene, caption=caption(scene, rng))]
    for chunk in sorted(rng.choice(chunks, size=num_switches, replace=False)):
        scene, text = follow_up(scene, rng)
        segments.append(Segment(start=chunk_start(int(chunk)), scene=scene, caption=text))
    return Clip(segments=tuple(segments), seed=int(rng.integers(2**31)))
