"""What the pocket networks learn from: clips as latents with captions, and pairs of prompts.

Distribution matching needs no clips: text is all that it learns from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from afstream.checkpoints.files import save_tensors
from afstream.errors import ConfigError
from afstream.families.pocket.captions import ATTRIBUTES, caption, parse, scene_of
from afstream.families.pocket.clips import follow_up, random_clip, random_scene
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.scene import Clip
from afstream.families.pocket.text import PocketText
from afstream.families.pocket.vae import PocketVae
from afstream.families.pocket.world import render
from afstream.training.trainer.log import Report
from afstream.training.trainer.settings import Clips as NumClips
from afstream.training.trainer.settings import Frames, Seed, Whole, check_chunks
from afstream.validation import Checked

CHUNK_FRAMES = POCKET.lengths.chunk_frames
NUM_CAPTIONS = 6
# of second captions, those that leave out some of what stays as it was
PARTIAL_SHARE = 0.6
OMIT_SHARE = 0.75
# the same of the second prompts of distribution matching
PARTIAL_PROMPTS = 0.5

SwitchFrames = Annotated[tuple[Whole, ...], Field(min_length=1)]


class ClipSet(NamedTuple):
    """Clips that are made together and go into a file of that name.

    A switch may fall at each of `switch_frames` (latent frames, chunk starts), 0 for none; clip i
    depends on the seed and on i alone.
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
        clips: number of longer clips, for the student and its retention.
        frames: latent frames of the longer clips.
        switch_frames: where their switch may fall, each as likely as it is often listed; 0 is
            no switch.
        seed: of first chunks and longer clips.
        windows: number of clips for the teacher.
        window_frames: latent frames of the teacher's clips, what it sees at once.
        window_switch_frames: where their switch may fall, after the first chunk or not at all.
        window_seed: of the teacher's clips.
    """

    firsts: NumClips
    clips: NumClips
    frames: Frames
    switch_frames: SwitchFrames
    seed: Seed
    windows: NumClips
    window_frames: Frames
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
        """The sets of clips, without first chunks where no student is trained."""
        switches = self.window_switch_frames
        firsts = ClipSet("firsts", self.firsts, CHUNK_FRAMES, (0,), self.seed)
        clips = ClipSet("clips", self.clips, self.frames, self.switch_frames, self.seed)
        windows = ClipSet("windows", self.windows, self.window_frames, switches, self.window_seed)
        return [firsts, clips, windows] if with_student else [clips, windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Clips of equal length with at most one switch each.

    `latents` are [N, F, C, h, w] in float16, `switch_frames` [N] the latent frame of the switch, 0
    for none. Each clip has `NUM_CAPTIONS` wordings of (first prompt, second prompt); the second
    repeats the first where there is no switch.
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
        kept = ATTRIBUTES - after.changes(before)
        omit = frozenset(name for name in sorted(kept) if rng.random() < OMIT_SHARE)
    return first, caption(after, rng, omit=omit, before=before)


@torch.no_grad()
def make_clips(vae: PocketVae, clips: ClipSet, *, report: Report, batch: int = 16) -> Clips:
    """Render, caption and encode a set of clips, some together.

    The report is called with `kind`, the set's name, and `done` of `of` clips.
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
        found, _ = vae.encode(torch.stack(videos).to(vae.latent_mean.device))
        latents.append(found.half().cpu())
        report({"kind": clips.name, "done": len(captions), "of": clips.num_clips})
    return Clips(
        latents=torch.cat(latents),
        switch_frames=torch.tensor(switches),
        captions=tuple(captions),
    )


def prompt_pair(seed: int, number: int) -> tuple[str, str]:
    """A prompt, and one that the story turns to; both depend on seed and number alone."""
    rng = np.random.default_rng([seed, number])
    scene = random_scene(rng)
    first = caption(scene, rng)
    return first, follow_up(scene, rng, partial_share=PARTIAL_PROMPTS)[1]


def full_prompt(seed: int, number: int) -> str:
    """The second prompt of a pair, reworded so that it leaves nothing out."""
    first, second = prompt_pair(seed, number)
    before = scene_of(first)
    rng = np.random.default_rng([seed, number, 1])
    return caption(parse(second).over(before), rng, before=before)


class PocketPrompts:
    """Pairs as embeddings, by the encoder that student and teacher share; see `Prompts` of DMD."""

    def __init__(self, text: PocketText, seed: int) -> None:
        self._text = text
        self._seed = seed

    def pair(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, text_dim] of the first and the second prompts."""
        pairs = [prompt_pair(self._seed, number) for number in numbers]
        first, second = (self._text.encode(prompts) for prompts in zip(*pairs, strict=True))
        return first, second

    def full(self, numbers: Sequence[int]) -> Tensor:
        """Embeddings [B, T, text_dim] of second prompts that leave nothing out."""
        return self._text.encode([full_prompt(self._seed, number) for number in numbers])

    def unconditional(self, count: int) -> Tensor:
        """Zeros [B, T, text_dim]: what the teacher learned to read as no prompt."""
        shape = (count, self._text.text_len, self._text.position.shape[1])
        return torch.zeros(shape, device=self._text.position.device)
