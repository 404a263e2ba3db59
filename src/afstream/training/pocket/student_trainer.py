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

from afstream.attention.clip import ClipContext
from afstream.attention.rope import RopeTables
from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.schedule import TIMESTEPS, Schedule, add_noise
from afstream.families.pocket.family import POCKET
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import TextContext
from afstream.model.layers import TextKeys
from afstream.training.pocket.data import Clips
from afstream.training.pocket.student import Student, StudentConfig
from afstream.training.teacher_forcing import ClipPlan, plan_clip
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.optim import Ema, muon_and_adamw, set_rates, trapezoid
from afstream_kernels import choose_backend

CPU = torch.device("cpu")
# denoise steps that a chunk of the model's own past has gone through, at most
OWN_STEPS = 3


class _Plans:
    """Clip plans and their attention windows, made once per place of the switch."""

    def __init__(self, policy: MemoryPolicy, config: BackboneConfig) -> None:
        self._policy = policy
        self._config = config
        self._made: dict[tuple[int, int | None, tuple[int, int]], tuple[ClipPlan, ClipContext]] = {}

    def get(
        self, num_frames: int, switch_frame: int | None, size: tuple[int, int]
    ) -> tuple[ClipPlan, ClipContext]:
        """The plan of a clip, for latents of `size` (h, w)."""
        key = (num_frames, switch_frame, size)
        if key not in self._made:
            plan = plan_clip(self._policy, num_frames, switch_frame)
            patch = self._config.patch
            window = ClipContext(
                plan.layout,
                grid=(self._policy.lengths.chunk_frames, size[0] // patch, size[1] // patch),
                rope=RopeTables(self._config.head_dim, torch.float32, CPU),
                backend=choose_backend(None, device=CPU, dtype=torch.float32),
            )
            self._made[key] = plan, window
        return self._made[key]


class StudentTrainer(Trainer):
    """One training run, its model and data; see `afstream.training.trainer.loop.Trainer`.

    Args:
        config: settings of the training.
        backbone: sizes of the backbone.
        words: vocabulary of the text encoder.
        clips: clips with at most one switch each.
        firsts: first chunks.
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
        self._optimizers = muon_and_adamw(self.student, lr=config.lr, matrix_lr=config.hidden_lr)
        super().__init__(
            {"student": (self.student, self._optimizers)}, ema=self.ema, random=self._random
        )
        self._policy = memory_policy("anchor", POCKET.lengths)
        self._sigmas = torch.tensor(Schedule.of(SamplerConfig()).sigmas)
        self._plans = _Plans(self._policy, backbone)
        self._clips, self._firsts = clips, firsts
        self._groups = {
            int(at): torch.nonzero(clips.switch_frames == at).flatten()
            for at in clips.switch_frames.unique()
        }

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
        share = trapezoid(self.step, warmup=config.warmup, decay=config.decay, total=config.steps)
        found = {name: float(value.detach()) for name, value in losses.items()}
        set_rates(self._optimizers, (config.hidden_lr, config.lr), share)
        found["norm"] = self.update("student", 1.0)
        self.ema.update(self.student, self.step)
        return found

    def _first_loss(self, count: int) -> Tensor:
        """Flow-matching loss of chunks without a past."""
        rows = torch.randint(len(self._firsts), (count,), generator=self._random)
        clean = self._firsts.latents[rows, : self._policy.lengths.chunk_frames].float()
        plan, window = self._plans.get(clean.shape[1], None, _size(clean))
        prompts = [self._wording(self._firsts, int(row))[0] for row in rows]
        text = self._text(prompts)
        sigma = self._sigma((count, 1))
        flow, target = self._flow(clean, sigma, clean, plan, window, text)
        return (flow - target).square().mean()

    def _clip_loss(self, *, own: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss of whole clips, and its parts to report."""
        config, chunk = self.config, self._policy.lengths.chunk_frames
        total = len(self._clips)
        at = int(self._clips.switch_frames[torch.randint(total, (1,), generator=self._random)])
        group = self._groups[at]
        picks = torch.randint(len(group), (config.clip_batch,), generator=self._random)
        rows = group[picks]
        clean = self._clips.latents[rows].float()
        frames = clean.shape[1]
        plan, window = self._plans.get(frames, at or None, _size(clean))
        wordings = [self._wording(self._clips, int(row)) for row in rows]
        text = self._clip_text(plan, wordings, clean)

        past = self._own_past(clean, plan, window, text) if own else clean
        sigma = self._sigma((config.clip_batch, frames // chunk))
        flow, target = self._flow(clean, sigma, self._roughen(past), plan, window, text)
        error = (flow - target).square().unflatten(1, (-1, chunk)).mean(dim=(0, 2, 3, 4, 5))
        weights = torch.ones(frames // chunk)
        if at:
            weights[at // chunk : at // chunk + 2] = config.switch_weight
        loss = (error * weights).sum() / weights.sum()
        parts = {"own" if own else "clip": error[1:].mean()}
        if at:
            parts["switch"] = error[at // chunk]
        return loss, parts

    @torch.no_grad()
    def _own_past(
        self, clean: Tensor, plan: ClipPlan, window: ClipContext, text: TextContext
    ) -> Tensor:
        """What the model makes of a clip [B, F, C, h, w] in its last one to three steps.

        All chunks take a step at once, each on the others' latest estimate. Starting from
        the noisy truth keeps the motion's phase, so the truth remains the right target.
        """
        chunk = self._policy.lengths.chunk_frames
        estimate = clean
        for step in range(-1 - int(self._draw() * OWN_STEPS), 0):
            sigma = self._sigmas[step].expand(len(clean), clean.shape[1] // chunk).clone()
            # a chunk without a past would leave the truth at a high sigma
            sigma[:, 0] = self._sigmas[-1]
            past = self._roughen(estimate)
            flow, target = self._flow(estimate, sigma, past, plan, window, text)
            # flow - target = (estimate - prediction) / sigma
            estimate = estimate - (flow - target) * _per_frame(sigma, chunk)
        return estimate

    def _flow(
        self,
        clean: Tensor,
        sigma: Tensor,
        past: Tensor,
        plan: ClipPlan,
        window: ClipContext,
        text: TextContext,
    ) -> tuple[Tensor, Tensor]:
        """Predicted and true flow of every noisy chunk, [B, F, C, h, w] both.

        Args:
            clean: the clip [B, F, C, h, w].
            sigma: noise share per chunk [B, F / c].
            past: what context chunks show, [B, F, C, h, w].
            plan: blocks of the call.
            window: their attention.
            text: the prompts.
        """
        chunk = self._policy.lengths.chunk_frames
        noise = torch.randn(clean.shape, generator=self._random)
        noisy = add_noise(clean, noise, _per_frame(sigma, chunk))
        past_blocks = [
            past[:, block.frame : block.frame + chunk] for block in plan.blocks[: plan.first_noisy]
        ]
        latents = torch.cat([*past_blocks, noisy], dim=1)
        timestep = torch.zeros(latents.shape[:2])
        timestep[:, -clean.shape[1] :] = TIMESTEPS * sigma.repeat_interleave(chunk, dim=1)
        backbone = self.student.backbone
        flow = backbone(latents, backbone.time_context(timestep), text, window)
        return flow[:, -clean.shape[1] :], noise - clean

    def _text(self, prompts: Sequence[str]) -> TextContext:
        return self.student.backbone.text_context(
            self.student.text(self.student.text.tokens(prompts))
        )

    def _clip_text(
        self, plan: ClipPlan, wordings: Sequence[tuple[str, str]], clean: Tensor
    ) -> TextContext:
        """Both prompts side by side, each block masked to its own."""
        before = self._text([first for first, _ in wordings])
        if plan.switch_frame is None:
            return before
        after = self._text([second for _, second in wordings])
        patch = self.student.backbone.config.patch
        tokens = self._policy.lengths.chunk_frames * clean.shape[-2] * clean.shape[-1] // patch**2
        second = torch.tensor(plan.second_prompt).repeat_interleave(tokens)[:, None]
        length = before[0].k.shape[1]
        mask = torch.cat([~second.expand(-1, length), second.expand(-1, length)], dim=1)
        return tuple(
            TextKeys(torch.cat([a.k, b.k], dim=1), torch.cat([a.v, b.v], dim=1), mask)
            for a, b in zip(before, after, strict=True)
        )

    def _roughen(self, past: Tensor) -> Tensor:
        """Lay a little noise on the past, a different share on each clip."""
        share = self.config.past_noise * torch.rand(len(past), 1, 1, 1, 1, generator=self._random)
        return add_noise(past, torch.randn(past.shape, generator=self._random), share)

    def _sigma(self, shape: tuple[int, int]) -> Tensor:
        """Random denoise steps' sigmas."""
        steps = torch.randint(len(self._sigmas), shape, generator=self._random)
        return self._sigmas[steps]

    def _wording(self, clips: Clips, row: int) -> tuple[str, str]:
        wordings = clips.captions[row]
        return wordings[int(self._draw() * len(wordings))]

    def _draw(self) -> float:
        return float(torch.rand(1, generator=self._random))


def _per_frame(sigma: Tensor, chunk: int) -> Tensor:
    """[B, F / c] -> [B, F, 1, 1, 1]."""
    return sigma.repeat_interleave(chunk, dim=1)[:, :, None, None, None]


def _size(latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2], latents.shape[-1]
