"""Training of the pocket student: a causal few-step model, by teacher forcing on flow matching.

Three kinds of learning share one run:

1. *First chunks*: chunks without a past, the generative part, in large batches.
2. *Clips*: all chunks of a clip at once, each on its clean past (`teacher_forcing`), with
   a prompt switch and its re-cache in most of them.
3. *Own errors*: as 2, but the past is what the model itself made of it, so that it learns
   to correct instead of to add up its mistakes. The world is deterministic after its first
   frame, so the true continuation stays the right target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afstream.attention.clip import ClipContext
from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.schedule import TIMESTEPS, Schedule, add_noise
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.text import PocketText
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone, TextContext
from afstream.model.layers import TextKeys
from afstream.training.dmd.bidirectional import clip_context
from afstream.training.pocket.data import Clips
from afstream.training.teacher_forcing import ClipPlan, plan_clip
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.optim import Ema, muon_and_adamw
from afstream.training.trainer.settings import Amount, Batch, MuonConfig, Share, Whole

# denoise steps that a chunk of the model's own past has gone through, at most
OWN_STEPS = 3


class StudentConfig(MuonConfig):
    """`[student]`: causal initialisation by teacher forcing, in three kinds of steps.

    Attributes:
        first_steps: number of steps at the beginning that see first chunks only.
        own_from: step from which on the past is the model's own in `own_share` of the steps.
        own_share: see `own_from`.
        first_batch: first chunks in a step of kind 1.
        side_batch: first chunks beside the clips in a step of kind 2 or 3.
        clip_batch: clips in a step.
        past_noise: largest sigma of the noise laid on a clean past.
        switch_weight: weight of the two chunks that follow a switch.
    """

    first_steps: Whole
    own_from: Whole
    own_share: Share
    first_batch: Batch
    side_batch: Batch
    clip_batch: Batch
    past_noise: Share
    switch_weight: Amount


class Student(nn.Module):
    """Backbone and text encoder, trained together."""

    def __init__(self, backbone: BackboneConfig, words: Sequence[str]) -> None:
        super().__init__()
        self.backbone = Backbone(backbone)
        self.text = PocketText(words, text_dim=backbone.text_dim, text_len=backbone.text_len)
        initialise(self.backbone)


def initialise(backbone: Backbone) -> None:
    """Draw fresh weights: Xavier for linear maps, zeros for the head, small ones for the gates."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(backbone.head.head.weight)
    projection = backbone.time_projection[1]
    nn.init.normal_(projection.weight, std=0.02)  # pyright: ignore[reportArgumentType]


class _Call(NamedTuple):
    """How a model call over whole clips runs: its blocks, their attention, their prompts."""

    plan: ClipPlan
    attention: ClipContext
    text: TextContext


class StudentTrainer(Trainer):
    """One training run of fresh weights.

    `words` is the vocabulary of the text encoder; the clips have at most one switch each.
    """

    def __init__(
        self,
        config: StudentConfig,
        backbone: BackboneConfig,
        words: Sequence[str],
        clips: Clips,
        firsts: Clips,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.student = Student(backbone, words)
        self.ema = Ema(self.student, config.ema)
        self._random = torch.Generator().manual_seed(config.seed)
        optimizers = muon_and_adamw(self.student, lr=config.lr, matrix_lr=config.hidden_lr)
        networks = {"student": (self.student, optimizers)}
        super().__init__(networks, ema=self.ema, random=self._random)
        self._policy = memory_policy("anchor", POCKET.lengths)
        self._chunk = POCKET.lengths.chunk_frames
        self._sigmas = torch.tensor(Schedule.of(SamplerConfig()).sigmas)
        self._plans: dict[tuple[torch.Size, int], tuple[ClipPlan, ClipContext]] = {}
        self._clips, self._firsts = clips, firsts

    def advance(self) -> dict[str, float]:
        """One optimizer step; the losses it saw, and the gradient's norm."""
        config = self.config
        first_only = self.step < config.first_steps
        losses = {
            "first": self._first_loss(config.first_batch if first_only else config.side_batch)
        }
        total = losses["first"]
        if not first_only:
            own = self.step >= config.own_from and self._draw() < config.own_share
            loss, parts = self._clip_loss(own=own)
            total = total + loss
            losses |= parts
        total.backward()
        found = {name: float(value.detach()) for name, value in losses.items()}
        found["norm"] = self.update("student", 1.0, config.rate(self.step))
        self.ema.update(self.step)
        return found

    def _first_loss(self, count: int) -> Tensor:
        """Flow-matching loss of chunks without a past."""
        rows = torch.randint(len(self._firsts), (count,), generator=self._random)
        clean = self._firsts.latents[rows, : self._chunk].float()
        call = self._call(clean, 0, self._wordings(self._firsts, rows))
        sigma = self._sigma((count, 1))
        flow, target = self._flow(clean, sigma, clean, call)
        return (flow - target).square().mean()

    def _clip_loss(self, *, own: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss of whole clips, and its parts to report."""
        config, switches = self.config, self._clips.switch_frames
        at = int(switches[torch.randint(len(switches), (1,), generator=self._random)])
        # one plan serves all clips of a step, so their switch is at the same frame
        alike = torch.nonzero(switches == at).flatten()
        rows = alike[torch.randint(len(alike), (config.clip_batch,), generator=self._random)]
        clean = self._clips.latents[rows].float()
        num_chunks = clean.shape[1] // self._chunk
        call = self._call(clean, at, self._wordings(self._clips, rows))

        past = self._own_past(clean, call) if own else clean
        sigma = self._sigma((config.clip_batch, num_chunks))
        flow, target = self._flow(clean, sigma, self._roughen(past), call)
        error = (flow - target).square().unflatten(1, (-1, self._chunk)).mean(dim=(0, 2, 3, 4, 5))
        weights = torch.ones(num_chunks)
        first = at // self._chunk
        if at:
            weights[first : first + 2] = config.switch_weight
        loss = (error * weights).sum() / weights.sum()
        parts = {"own" if own else "clip": error[1:].mean()}
        if at:
            parts["switch"] = error[first]
        return loss, parts

    @torch.no_grad()
    def _own_past(self, clean: Tensor, call: _Call) -> Tensor:
        """What the model makes of a clip [B, F, C, h, w] in its last one to three steps.

        All chunks take a step at once, each on the others' latest estimate. Starting from
        the noisy truth keeps the motion's phase, so the truth remains the right target.
        """
        estimate = clean
        for step in range(-1 - int(self._draw() * OWN_STEPS), 0):
            sigma = self._sigmas[step].expand(len(clean), clean.shape[1] // self._chunk).clone()
            # a chunk without a past would leave the truth at a high sigma
            sigma[:, 0] = self._sigmas[-1]
            flow, target = self._flow(estimate, sigma, self._roughen(estimate), call)
            # flow - target = (estimate - prediction) / sigma
            estimate = estimate - (flow - target) * self._per_frame(sigma)
        return estimate

    def _flow(
        self, clean: Tensor, sigma: Tensor, past: Tensor, call: _Call
    ) -> tuple[Tensor, Tensor]:
        """Predicted and true flow [B, F, C, h, w] of every noisy chunk of a clip.

        `sigma` is the noise share per chunk [B, F / c], `past` what context chunks show.
        """
        noise = torch.randn(clean.shape, generator=self._random)
        noisy = add_noise(clean, noise, self._per_frame(sigma))
        shown = [
            past[:, block.frame : block.frame + self._chunk]
            for block in call.plan.blocks[: call.plan.first_noisy]
        ]
        latents = torch.cat([*shown, noisy], dim=1)
        timestep = torch.zeros(latents.shape[:2])
        timestep[:, -clean.shape[1] :] = TIMESTEPS * sigma.repeat_interleave(self._chunk, dim=1)
        backbone = self.student.backbone
        flow = backbone(latents, backbone.time_context(timestep), call.text, call.attention)
        return flow[:, -clean.shape[1] :], noise - clean

    def _call(self, clean: Tensor, switch: int, wordings: Sequence[tuple[str, str]]) -> _Call:
        """The call over clips [B, F, C, h, w] that switch at a frame, 0 for none."""
        frames, _, *size = clean.shape[1:]
        key = clean.shape[1:], switch
        if key not in self._plans:
            plan = plan_clip(self._policy, frames, switch or None)
            grid = self._chunk, size[0], size[1]
            self._plans[key] = plan, clip_context(self.student.backbone, plan.layout, grid)
        plan, attention = self._plans[key]
        before = self._text([first for first, _ in wordings])
        if not switch:
            return _Call(plan, attention, before)
        # both prompts side by side, each block masked to its own
        after = self._text([second for _, second in wordings])
        tokens = self._chunk * size[0] * size[1] // self.student.backbone.config.patch**2
        second = torch.tensor(plan.second_prompt).repeat_interleave(tokens)[:, None]
        length = before[0].k.shape[1]
        mask = torch.cat([~second.expand(-1, length), second.expand(-1, length)], dim=1)
        both = tuple(
            TextKeys(torch.cat([a.k, b.k], dim=1), torch.cat([a.v, b.v], dim=1), mask)
            for a, b in zip(before, after, strict=True)
        )
        return _Call(plan, attention, both)

    def _text(self, prompts: Sequence[str]) -> TextContext:
        text = self.student.text
        return self.student.backbone.text_context(text(text.tokens(prompts)))

    def _roughen(self, past: Tensor) -> Tensor:
        """Add a little noise to the past, another share to each clip."""
        share = self.config.past_noise * torch.rand(len(past), 1, 1, 1, 1, generator=self._random)
        return add_noise(past, torch.randn(past.shape, generator=self._random), share)

    def _sigma(self, shape: tuple[int, int]) -> Tensor:
        """Random denoise steps' sigmas."""
        return self._sigmas[torch.randint(len(self._sigmas), shape, generator=self._random)]

    def _per_frame(self, sigma: Tensor) -> Tensor:
        """[B, F / c] -> [B, F, 1, 1, 1]."""
        return sigma.repeat_interleave(self._chunk, dim=1)[:, :, None, None, None]

    def _wordings(self, clips: Clips, rows: Tensor) -> list[tuple[str, str]]:
        """One of the wordings of each clip."""
        found = [clips.captions[int(row)] for row in rows]
        return [each[int(self._draw() * len(each))] for each in found]

    def _draw(self) -> float:
        return float(torch.rand(1, generator=self._random))
