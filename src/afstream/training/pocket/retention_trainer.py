"""Retention: a student learns to keep, behind a prompt switch, what the new caption leaves out.

Most steps learn the three chunks behind a switch alone, whose caption mostly leaves attributes out.
Their past is the clip's own, or, as in a stream, what the student itself makes behind the switch
from pure noise. The other steps learn whole clips under full captions, so that nothing else is
forgotten.

What is learned is the flow that a *guide* predicts: the student as it was at the beginning, frozen,
that reads the full caption of the same scene. It sees the same past and the same noisy chunks, so
it knows what was left out and the student must find it in its memory. The other target is the flow
of the true clip.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.engine.schedule import Schedule, add_noise
from afstream.errors import ConfigError
from afstream.families.pocket.captions import ATTRIBUTES, caption, parse, scene_of
from afstream.families.pocket.clips import leave_out
from afstream.families.pocket.family import POCKET
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import MemoryPolicy
from afstream.training.dmd.config import MemoryName
from afstream.training.pocket.data import Clips
from afstream.training.pocket.student import ClipCalls, Student, Wording
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.optim import Ema, muon_and_adamw
from afstream.training.trainer.rng import generator
from afstream.training.trainer.settings import Batch, MuonConfig, Share

# chunks behind a switch that the student makes itself, and one more that is learned
OWN_CHUNKS = 2


class RetentionConfig(MuonConfig):
    """`[retention]`: what captions behind a switch leave out is kept.

    Attributes:
        begins_with: the stage whose student is taught; `student` is also the one of `[start]`.
        target: the flow that is learned, the `guide`'s or that of the true clip, `truth`.
        batch: clips in a step behind a switch.
        whole_batch: clips in a step of whole clips.
        whole_share: share of the steps that learn whole clips under full captions.
        silent_share: share of the captions behind a switch that leave something out.
        own_share: share of the steps behind a switch where the chunks behind it that others see
            are the student's own.
        past_noise: largest sigma of the noise laid on the past.
        memories: what streams remember, one drawn for each step; may be listed several times.
    """

    begins_with: Literal["student", "short", "long"]
    target: Literal["guide", "truth"]
    batch: Batch
    whole_batch: Batch
    whole_share: Share
    silent_share: Share
    own_share: Share
    past_noise: Share
    memories: Annotated[tuple[MemoryName, ...], Field(min_length=1)]


class Lesson(NamedTuple):
    """What a step learns from.

    Clips [B, F, C, h, w] that switch at frame `switch`, what the student reads of them and what the
    guide reads, first frames of the chunks that are learned, and the memory.
    """

    clean: Tensor
    switch: int
    read: list[Wording]
    full: list[Wording]
    learned: tuple[int, ...]
    policy: MemoryPolicy


class RetentionTrainer(Trainer):
    """One run of the stage; the student is trained in place.

    All that is drawn is a function of the seed and the step.

    Raises:
        ConfigError: no clip has a switch.
    """

    def __init__(self, config: RetentionConfig, student: Student, clips: Clips) -> None:
        self.config = config
        self.guide = deepcopy(student).requires_grad_(False).eval()
        self.student = student.requires_grad_(True).train()
        self.ema = Ema(student, config.ema)
        optimizers = muon_and_adamw(student, lr=config.lr, matrix_lr=config.hidden_lr)
        super().__init__({"student": (student, optimizers)}, ema=self.ema)
        self._chunk = POCKET.lengths.chunk_frames
        self._sigmas = torch.tensor(Schedule.of(SamplerConfig()).sigmas)
        self._calls = ClipCalls(self.student, self._chunk)
        self._guided = ClipCalls(self.guide, self._chunk)
        self._policies = [memory_policy(name, POCKET.lengths) for name in config.memories]
        self._clips = clips
        self._rows = torch.nonzero(clips.switch_frames).flatten()
        if not len(self._rows):
            raise ConfigError("no clip has a switch; set clips.switch_frames to hold more than 0")
        self._random = generator(config.seed)

    def advance(self) -> dict[str, float]:
        """One optimizer step; its loss by the kind of the step, and the gradient's norm."""
        config = self.config
        self._random = generator(config.seed, "retention", self.step)
        if self._draw() < config.whole_share:
            kind, lesson = "whole", self.lesson(whole=True)
            past = lesson.clean
        else:
            kind, lesson = "switch", self.lesson(whole=False)
            past = lesson.clean
            if self._draw() < config.own_share:
                kind, past = "own", self.own_past(lesson)
        loss = self.loss(lesson, past)
        loss.backward()
        norm = self.update("student", 1.0, config.rate(self.step))
        self.ema.update(self.step)
        return {kind: float(loss.detach()), "norm": norm}

    def lesson(self, *, whole: bool) -> Lesson:
        """Draw clips that switch at the same frame, so that one plan serves them all."""
        config, switches = self.config, self._clips.switch_frames
        at = int(switches[self._rows[self._pick(len(self._rows))]])
        alike = torch.nonzero(switches == at).flatten()
        count = config.whole_batch if whole else config.batch
        rows = alike[torch.randint(len(alike), (count,), generator=self._random)]
        clean = self._clips.latents[rows].to(self.student.backbone.device).float()
        rng = np.random.default_rng(self._pick(2**62))
        silent = 0.0 if whole else config.silent_share
        words = [reworded(self._clips.captions[int(row)][0], rng, silent) for row in rows]
        stop = clean.shape[1]
        behind = range(at, min(at + (OWN_CHUNKS + 1) * self._chunk, stop), self._chunk)
        return Lesson(
            clean=clean,
            switch=at,
            read=[read for read, _ in words],
            full=[full for _, full in words],
            learned=tuple(range(0, stop, self._chunk) if whole else behind),
            policy=self._policies[self._pick(len(self._policies))],
        )

    def loss(self, lesson: Lesson, past: Tensor) -> Tensor:
        """The flow's mean squared error.

        `past` [B, F, C, h, w] is what context chunks show; under a guide, learned chunks begin with
        it as well.
        """
        plan = lesson.policy, lesson.clean.shape[1:], lesson.switch
        guided = self.config.target == "guide"
        # only a guide knows what should follow what the student made of a clip
        source = past if guided else lesson.clean
        clean = torch.cat([source[:, at : at + self._chunk] for at in lesson.learned], dim=1)
        shape = len(clean), len(lesson.learned)
        drawn = torch.randint(len(self._sigmas), shape, generator=self._random)
        sigma = self._sigmas[drawn].to(clean.device)
        noise = self._randn(clean.shape)
        share = sigma.repeat_interleave(self._chunk, dim=1)[:, :, None, None, None]
        noisy = add_noise(clean, noise, share)
        rough = self._roughen(past)
        call = self._calls.plan(*plan, lesson.read, learned=lesson.learned)
        flow = self._calls.flow(call, rough, noisy, sigma)
        target = noise - clean
        if guided:
            with torch.no_grad():
                call = self._guided.plan(*plan, lesson.full, learned=lesson.learned)
                target = self._guided.flow(call, rough, noisy, sigma)
        return (flow - target).square().mean()

    @torch.no_grad()
    def own_past(self, lesson: Lesson) -> Tensor:
        """The clips, with the chunks behind the switch as the student's own stream makes them."""
        student, policy, switch = self.student, lesson.policy, lesson.switch
        rollout = Rollout.of(student.backbone, policy, SamplerConfig())
        first, second = (student.read(prompts) for prompts in zip(*lesson.read, strict=True))
        clean = self._roughen(lesson.clean)
        state = rollout.start(first, clean[:, : self._chunk].shape)
        for chunk in clean[:, :switch].split(self._chunk, dim=1):
            rollout.commit(state, chunk)
        rollout.switch(state, second)
        made: list[Tensor] = []
        for _ in lesson.learned[:OWN_CHUNKS]:
            noise = self._randn(torch.Size([len(self._sigmas), *state.shape]))
            made.append(rollout.denoise(state, noise))
            rollout.commit(state, made[-1])
        behind = switch + len(made) * self._chunk
        return torch.cat([lesson.clean[:, :switch], *made, lesson.clean[:, behind:]], dim=1)

    def _roughen(self, past: Tensor) -> Tensor:
        """Add a little noise to the past, another share to each clip."""
        share = self.config.past_noise * torch.rand(len(past), 1, 1, 1, 1, generator=self._random)
        return add_noise(past, self._randn(past.shape), share.to(past.device))

    def _randn(self, shape: torch.Size) -> Tensor:
        """Normal noise, drawn on the CPU, the same for any device."""
        return torch.randn(shape, generator=self._random).to(self.student.backbone.device)

    def _pick(self, count: int) -> int:
        return int(torch.randint(count, (1,), generator=self._random))

    def _draw(self) -> float:
        return float(torch.rand(1, generator=self._random))


def reworded(
    wording: Wording, rng: np.random.Generator, silent_share: float
) -> tuple[Wording, Wording]:
    """Other words for a clip's scenes: what the student reads, and what leaves nothing out.

    Of what the student reads, `silent_share` leave out some of what stays as it was.
    """
    before = scene_of(wording[0])
    after = parse(wording[1]).over(before)
    first = caption(before, rng)
    full = caption(after, rng, before=before)
    if rng.random() >= silent_share:
        return (first, full), (first, full)
    untold = frozenset[str]() if after.companion else {"companion"}
    kept = sorted(ATTRIBUTES - after.changes(before) - untold)
    second = caption(after, rng, omit=leave_out(kept, rng), before=before)
    return (first, second), (first, full)
