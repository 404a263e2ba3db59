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

import torch
from torch import Tensor

from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.schedule import Schedule, add_noise
from afstream.families.pocket.family import POCKET
from afstream.kvcache.memories import memory_policy
from afstream.training.pocket.data import Clips
from afstream.training.pocket.student import ClipCall, ClipCalls, Student, Wording
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
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.student = Student.fresh(backbone, words).to(device)
        self.ema = Ema(self.student, config.ema)
        self._random = torch.Generator().manual_seed(config.seed)
        optimizers = muon_and_adamw(self.student, lr=config.lr, matrix_lr=config.hidden_lr)
        networks = {"student": (self.student, optimizers)}
        super().__init__(networks, ema=self.ema, random=self._random)
        self._policy = memory_policy("anchor", POCKET.lengths)
        self._chunk = POCKET.lengths.chunk_frames
        self._sigmas = torch.tensor(Schedule.of(SamplerConfig()).sigmas)
        self._calls = ClipCalls(self.student, self._chunk)
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
        clean = self._latents(self._firsts, rows)[:, : self._chunk]
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
        clean = self._latents(self._clips, rows)
        num_chunks = clean.shape[1] // self._chunk
        call = self._call(clean, at, self._wordings(self._clips, rows))

        past = self._own_past(clean, call) if own else clean
        sigma = self._sigma((config.clip_batch, num_chunks))
        flow, target = self._flow(clean, sigma, self._roughen(past), call)
        error = (flow - target).square().unflatten(1, (-1, self._chunk)).mean(dim=(0, 2, 3, 4, 5))
        weights = torch.ones(num_chunks, device=error.device)
        first = at // self._chunk
        if at:
            weights[first : first + 2] = config.switch_weight
        loss = (error * weights).sum() / weights.sum()
        parts = {"own" if own else "clip": error[1:].mean()}
        if at:
            parts["switch"] = error[first]
        return loss, parts

    @torch.no_grad()
    def _own_past(self, clean: Tensor, call: ClipCall) -> Tensor:
        """What the model makes of a clip [B, F, C, h, w] in its last one to three steps.

        All chunks take a step at once, each on the others' latest estimate. Starting from
        the noisy truth keeps the motion's phase, so the truth remains the right target.
        """
        estimate = clean
        for step in range(-1 - int(self._draw() * OWN_STEPS), 0):
            shape = len(clean), clean.shape[1] // self._chunk
            sigma = torch.full(shape, float(self._sigmas[step]), device=clean.device)
            # a chunk without a past would leave the truth at a high sigma
            sigma[:, 0] = self._sigmas[-1]
            flow, target = self._flow(estimate, sigma, self._roughen(estimate), call)
            # flow - target = (estimate - prediction) / sigma
            estimate = estimate - (flow - target) * self._per_frame(sigma)
        return estimate

    def _flow(
        self, clean: Tensor, sigma: Tensor, past: Tensor, call: ClipCall
    ) -> tuple[Tensor, Tensor]:
        """Predicted and true flow [B, F, C, h, w] of every noisy chunk of a clip.

        `sigma` is the noise share per chunk [B, F / c], `past` what context chunks show.
        """
        noise = self._randn(clean.shape)
        noisy = add_noise(clean, noise, self._per_frame(sigma))
        return self._calls.flow(call, past, noisy, sigma), noise - clean

    def _call(self, clean: Tensor, switch: int, wordings: Sequence[Wording]) -> ClipCall:
        """The call over clips [B, F, C, h, w] that switch at a frame, 0 for none."""
        return self._calls.plan(self._policy, clean.shape[1:], switch, wordings)

    def _roughen(self, past: Tensor) -> Tensor:
        """Add a little noise to the past, another share to each clip."""
        share = self.config.past_noise * torch.rand(len(past), 1, 1, 1, 1, generator=self._random)
        return add_noise(past, self._randn(past.shape), share.to(past.device))

    def _sigma(self, shape: tuple[int, int]) -> Tensor:
        """Random denoise steps' sigmas."""
        drawn = torch.randint(len(self._sigmas), shape, generator=self._random)
        return self._sigmas[drawn].to(self.student.backbone.device)

    def _per_frame(self, sigma: Tensor) -> Tensor:
        """[B, F / c] -> [B, F, 1, 1, 1]."""
        return sigma.repeat_interleave(self._chunk, dim=1)[:, :, None, None, None]

    def _latents(self, clips: Clips, rows: Tensor) -> Tensor:
        """Some clips [B, F, C, h, w], where the student is."""
        return clips.latents[rows].to(self.student.backbone.device).float()

    def _wordings(self, clips: Clips, rows: Tensor) -> list[Wording]:
        """One of the wordings of each clip."""
        found = [clips.captions[int(row)] for row in rows]
        return [each[int(self._draw() * len(each))] for each in found]

    def _randn(self, shape: torch.Size) -> Tensor:
        """Normal noise, drawn on the CPU, the same for any device."""
        return torch.randn(shape, generator=self._random).to(self.student.backbone.device)

    def _draw(self) -> float:
        return float(torch.rand(1, generator=self._random))
