"""Training data of the pocket student: clips of the pocket world as latents and captions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from afstream.checkpoints.weights import save_tensors
from afstream.errors import ConfigError
from afstream.families.pocket.captions import ATTRIBUTES, caption
from afstream.families.pocket.clips import random_clip
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.scene import Clip, Scene
from afstream.families.pocket.vae import PocketVae
from afstream.families.pocket.world import render
from afstream.training.trainer.checkpoints import Report
from afstream.training.trainer.settings import Count, Seed, Whole, check_chunks
from afstream.validation import Checked

CHUNK_FRAMES = POCKET.lengths.chunk_frames
NUM_CAPTIONS = 6
PARTIAL_SHARE = 0.6
OMIT_SHARE = 0.75


SwitchFrames = Annotated[tuple[Whole, ...], Field(min_length=1)]


class ClipSet(NamedTuple):
    """Clips that are made together, for one purpose.

    Attributes:
        name: of the set and of its file.
        num_clips: how many.
        frames: latent frames of each.
        switch_frames: where a switch may fall (latent frames, chunk starts); 0 for none.
        seed: clip i depends on the seed and on i alone.
    """

    name: str
    num_clips: int
    frames: int
    switch_frames: tuple[int, ...]
    seed: int


class ClipsConfig(Checked):
    """`[clips]`: what the pocket student and its teacher learn from.

    Attributes:
        firsts: number of first chunks, for the student.
        clips: number of longer clips, for the student.
        frames: latent frames of the longer clips.
        switch_frames: where their switch may fall, each as likely as it is often listed; 0 is
            no switch.
        seed: of first chunks and longer clips.
        windows: number of clips for the teacher.
        window_frames: latent frames of the teacher's clips, what it sees at once.
        window_switch_frames: where their switch may fall, after the first chunk or not at all.
        window_seed: of the teacher's clips.
    """

    firsts: Count
    clips: Count
    frames: Count
    switch_frames: SwitchFrames
    seed: Seed
    windows: Count
    window_frames: Count
    window_switch_frames: SwitchFrames
    window_seed: Seed

    @model_validator(mode="after")
    def _fits(self) -> ClipsConfig:
        """Refuse lengths and switches that do not fall on chunks."""
        for name, frames, switches in (
            ("frames", self.frames, self.switch_frames),
            ("window_frames", self.window_frames, self.window_switch_frames),
        ):
            check_chunks(name, frames, CHUNK_FRAMES)
            for at in switches:
                if at % CHUNK_FRAMES or at >= frames:
                    raise ConfigError(
                        f"a switch at latent frame {at} is no chunk start within {name},"
                        f" {frames}; use multiples of {CHUNK_FRAMES} below it"
                    )
        return self

    def sets(self, *, with_student: bool) -> list[ClipSet]:
        """The sets of clips, those of the teacher alone where no student is trained."""
        switches = self.window_switch_frames
        windows = ClipSet("windows", self.windows, self.window_frames, switches, self.window_seed)
        if not with_student:
            return [windows]
        firsts = ClipSet("firsts", self.firsts, CHUNK_FRAMES, (0,), self.seed)
        clips = ClipSet("clips", self.clips, self.frames, self.switch_frames, self.seed)
        return [firsts, clips, windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Clips of equal length with at most one switch each.

    Attributes:
        latents: [N, F, C, h, w], float16.
        switch_frames: [N] latent frame of the switch, 0 for none.
        captions: per clip, `NUM_CAPTIONS` wordings of (first prompt, second prompt); the
            second repeats the first where there is no switch.
    """

    latents: Tensor
    switch_frames: Tensor
    captions: tuple[tuple[tuple[str, str], ...], ...]

    def __len__(self) -> int:
        return len(self.captions)

    def save(self, path: Path) -> None:
        """Write one safetensors file, captions in its metadata."""
        tensors = {"latents": self.latents, "switch_frames": self.switch_frames}
        save_tensors(path, tensors, {"captions": json.dumps(self.captions)})

    @classmethod
    def load(cls, path: Path) -> Clips:
        """Read what `save` wrote."""
        with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
            captions = json.loads(file.metadata()["captions"])
        tensors = load_file(path)
        return cls(
            latents=tensors["latents"],
            switch_frames=tensors["switch_frames"],
            captions=tuple(tuple((a, b) for a, b in wordings) for wordings in captions),
        )


def reword(clip: Clip, rng: np.random.Generator) -> tuple[str, str]:
    """Other words for a clip's first and last scene.

    The second caption tells everything or, half of the time, only what changed and some of
    the rest: what it leaves out must be remembered.
    """
    before, after = clip.segments[0].scene, clip.segments[-1].scene
    first = caption(before, rng)
    if len(clip.segments) == 1:
        return first, first
    omit = frozenset[str]()
    if rng.random() < PARTIAL_SHARE:
        kept = ATTRIBUTES - _changes(before, after)
        omit = frozenset(name for name in sorted(kept) if rng.random() < OMIT_SHARE)
    return first, caption(after, rng, omit=omit, before=before)


def _changes(before: Scene, after: Scene) -> frozenset[str]:
    """Names of the attributes that differ."""
    changed = {
        "shape": before.subject.shape != after.subject.shape,
        "colour": before.subject.colour != after.subject.colour,
        "motion": before.motion != after.motion,
        "background": before.background != after.background,
        "companion": before.companion != after.companion,
    }
    return frozenset(name for name, differs in changed.items() if differs)


@torch.no_grad()
def make_clips(vae: PocketVae, clips: ClipSet, *, report: Report, batch: int = 16) -> Clips:
    """Render, caption and encode a set of clips.

    Args:
        vae: the trained codec.
        clips: what is made.
        report: called with `kind`, the set's name, and `done` of `of` clips.
        batch: clips encoded together.
    """
    latents: list[Tensor] = []
    switches: list[int] = []
    captions: list[tuple[tuple[str, str], ...]] = []
    for start in range(0, clips.num_clips, batch):
        videos: list[Tensor] = []
        for number in range(start, min(start + batch, clips.num_clips)):
            rng = np.random.default_rng([clips.seed, number])
            at = int(rng.choice(clips.switch_frames))
            chunk = at // CHUNK_FRAMES
            clip = random_clip(
                rng, num_switches=min(chunk, 1), num_chunks=chunk + 1, first_chunk=chunk
            )
            videos.append(torch.from_numpy(render(clip, POCKET.format.video_frames(clips.frames))))
            captions.append(tuple(reword(clip, rng) for _ in range(NUM_CAPTIONS)))
            switches.append(at)
        found, _ = vae.encode(torch.stack(videos))
        latents.append(found.half())
        report({"kind": clips.name, "done": len(captions), "of": clips.num_clips})
    return Clips(
        latents=torch.cat(latents),
        switch_frames=torch.tensor(switches),
        captions=tuple(captions),
    )
