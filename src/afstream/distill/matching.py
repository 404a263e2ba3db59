"""Distribution matching: a student trained in its own rollouts against a bidirectional teacher.

Each iteration makes one window of a long rollout and trains the critic on it; every so many,
the student learns from it as well. With windows of one length only, it is short-window
self-forcing; with sequences of up to a minute and a switch in each, streaming long tuning.
With tri-region positions, it is RoPE re-alignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from afstream.config import TIMESTEPS, MemoryPolicy, SamplerConfig
from afstream.distill.bidirectional import predict_clean, predict_flow
from afstream.distill.draws import normal, pick
from afstream.distill.losses import (
    critic_loss,
    dmd_gradient,
    dmd_loss,
    guided,
    matching_timestep,
)
from afstream.distill.optim import RunningAverage
from afstream.distill.sequences import Codec, LongSequence, Window, WindowPlan, replay
from afstream.model.dit import Backbone
from afstream.rollout import Rollout
from afstream.schedule import add_noise


class Prompts(Protocol):
    """Pairs of prompts as embeddings, by number."""

    def pair(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, text_dim] of the first and the second prompts of pairs."""
        ...

    def unconditional(self, count: int) -> Tensor:
        """Embeddings [B, T, text_dim] of what guidance leads away from."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingConfig:
    """A stage of distribution matching.

    Attributes:
        iterations: windows made, and critic updates; a multiple of `critic_updates`.
        critic_updates: of these, per update of the student.
        batch: sequences side by side, over all processes.
        plan: lengths of windows and sequences.
        switch: whether the prompt changes once in each sequence.
        guidance: g of the teacher.
        shift: of the timesteps of teacher and critic.
        lr: of the student.
        critic_lr: of the critic.
        betas: of both, AdamW.
        weight_decay: of both.
        clip: largest norm of a gradient.
        average: decay of the moving average of the student's weights, which is what ships.
        average_from: update of the student with which the average begins.
        seed: of everything that is drawn.
    """

    iterations: int
    critic_updates: int = 5
    batch: int = 8
    plan: WindowPlan = field(default_factory=WindowPlan)
    switch: bool = True
    guidance: float = 3.0
    shift: float = 5.0
    lr: float
    critic_lr: float
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.01
    clip: float = 10.0
    average: float = 0.99
    average_from: int = 200
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Who takes part.

    Attributes:
        student: causal; trained.
        critic: bidirectional; trained, to know the student's distribution.
        teacher: bidirectional; left as it is.
        codec: see `LongSequence`.
        prompts: what the rollouts are of.
    """

    student: Backbone
    critic: Backbone
    teacher: Backbone
    codec: Codec | None
    prompts: Prompts


class MatchingTrainer:
    """One run of a stage; see `afstream.distill.loop.Trainer`.

    Args:
        config: how.
        models: who.
        policy: what the student's streams remember, at which positions.
        sampler: their denoise steps.
        size: of a latent frame, (C, h, w).
        rows: the sequences of the batch that this process makes.
    """

    def __init__(
        self,
        config: MatchingConfig,
        models: Models,
        policy: MemoryPolicy,
        sampler: SamplerConfig,
        size: tuple[int, int, int],
        rows: Sequence[int] | None = None,
    ) -> None:
        self.config = config
        self.models = models
        self.average = RunningAverage(models.student, config.average)
        self.step = 0
        self.seconds = 0.0
        self._policy, self._sampler, self._size = policy, sampler, size
        self._rows = list(range(config.batch)) if rows is None else list(rows)
        self._optimizer = _adamw(models.student, config.lr, config)
        self._critic_optimizer = _adamw(models.critic, config.critic_lr, config)
        self._sequence: LongSequence | None = None
        self._number = 0

    @property
    def between_sequences(self) -> bool:
        """Whether nothing is lost by stopping here: no rollout is in the making."""
        return self._sequence is None

    def advance(self) -> dict[str, float]:
        """One iteration: a window, the critic's update, and now and then the student's."""
        learns = (self.step + 1) % self.config.critic_updates == 0
        window = self._window(keep=learns)
        told = self._train_student(window) if learns else {}
        motion = window.latents[:, window.counts].diff(dim=1).abs().mean()
        return told | self._train_critic(window) | {"motion": float(motion)}

    def state(self) -> dict[str, Any]:
        """See `Trainer.state`; take it between two sequences only."""
        return {
            "student": self.models.student.state_dict(),
            "critic": self.models.critic.state_dict(),
            "average": self.average.weights,
            "optimizer": self._optimizer.state_dict(),
            "critic_optimizer": self._critic_optimizer.state_dict(),
            "number": self._number,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Trainer.restore`."""
        self.models.student.load_state_dict(state["student"])
        self.models.critic.load_state_dict(state["critic"])
        self.average.weights = state["average"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._critic_optimizer.load_state_dict(state["critic_optimizer"])
        self._number = state["number"]

    def _window(self, *, keep: bool) -> Window:
        """The next window of the sequence in the making, or the first of a new one."""
        config, steps = self.config, len(self._sampler.steps)
        rollout = Rollout.of(self.models.student, self._policy, self._sampler)
        if self._sequence is None:
            self._sequence = self._begin(rollout)
        sequence, number = self._sequence, self._number
        shape = (steps, self._policy.chunk_frames, *self._size)

        def noise(chunk: int) -> Tensor:
            drawn = normal(shape, self._rows, config.seed, "noise", number, chunk)
            return drawn.transpose(0, 1)

        # the same for all sequences and processes: they take part in the same model calls
        exit_step = pick(steps, config.seed, "exit", self.step)
        window = sequence.advance(rollout, noise, exit_step, keep=keep)
        if sequence.finished:
            self._sequence = None
            self._number += 1
        return window

    def _begin(self, rollout: Rollout) -> LongSequence:
        config, number = self.config, self._number
        numbers = [number * config.batch + row for row in self._rows]
        boundaries = config.plan.boundaries
        at = 0
        if config.switch and boundaries:
            at = boundaries[pick(len(boundaries), config.seed, "switch", number)]
        return LongSequence(
            rollout,
            config.plan,
            self.models.prompts.pair(numbers),
            switch_frame=at,
            shape=(len(self._rows), self._policy.chunk_frames, *self._size),
            codec=self.models.codec,
        )

    def _train_student(self, window: Window) -> dict[str, float]:
        """One update by distribution matching."""
        rollout = Rollout.of(self.models.student, self._policy, self._sampler)
        direction = self._direction(window)
        leaf = window.latents.detach().clone().requires_grad_(True)
        loss = dmd_loss(leaf, direction, window.counts)
        (gradient,) = torch.autograd.grad(loss, leaf)
        replay(rollout, window, gradient)
        norm = self._update(self._optimizer, self.models.student)
        updates = (self.step + 1) // self.config.critic_updates
        if updates <= self.config.average_from:
            self.average.begin(self.models.student)
        else:
            self.average.update(self.models.student, updates)
        return {
            "student": float(loss.detach()),
            "norm": norm,
            "push": float(direction.abs().mean()),
        }

    @torch.no_grad()
    def _direction(self, window: Window) -> Tensor:
        """Where teacher and critic disagree about the window, [B, 21, C, h, w]."""
        models, config = self.models, self.config
        noisy, timestep, _ = self._noised(window.latents, "student")

        def clean(model: Backbone, embeds: Tensor) -> Tensor:
            return predict_clean(model, noisy, timestep, model.text_context(embeds))

        cond = clean(models.teacher, window.embeds)
        uncond = clean(models.teacher, models.prompts.unconditional(len(self._rows)))
        fake = clean(models.critic, window.embeds)
        real = guided(cond, uncond, config.guidance)
        return dmd_gradient(window.latents.double(), real, fake)

    def _train_critic(self, window: Window) -> dict[str, float]:
        """One update of the critic on what the student made."""
        critic, clean = self.models.critic, window.latents
        noisy, timestep, noise = self._noised(clean, "critic")
        flow = predict_flow(critic, noisy, timestep, critic.text_context(window.embeds))
        loss = critic_loss(flow, noise, clean)
        loss.backward()
        norm = self._update(self._critic_optimizer, critic)
        return {"critic": float(loss.detach()), "critic_norm": norm}

    def _noised(self, clean: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor]:
        """Clips on their way to noise: noisy clips, their timesteps [B], the noise."""
        config = self.config
        names = config.seed, what, self.step
        drawn = [pick(TIMESTEPS, *names, "t", row) for row in self._rows]
        timestep = torch.tensor(
            [matching_timestep(t, config.shift) for t in drawn], device=clean.device
        )
        noise = normal(clean.shape[1:], self._rows, *names).to(clean)
        sigma = (timestep / TIMESTEPS)[:, None, None, None, None]
        return add_noise(clean, noise, sigma), timestep, noise

    def _update(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> float:
        """Clip, step and clear; the norm before it was clipped. Without a norm, no step."""
        norm = nn.utils.clip_grad_norm_(_trained(model), self.config.clip)
        if norm.isfinite():
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(norm)


def _trained(model: nn.Module) -> Iterable[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _adamw(model: nn.Module, lr: float, config: MatchingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _trained(model), lr=lr, betas=config.betas, weight_decay=config.weight_decay
    )
