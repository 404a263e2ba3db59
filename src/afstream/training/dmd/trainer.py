"""Distribution matching: a student trained in its own rollouts against a bidirectional teacher.

Each iteration makes one window of a long rollout and trains the critic on it; every so many,
the student learns from it as well. With windows of one length only, it is short-window
self-forcing; with sequences of up to a minute and a switch in each, streaming long tuning.
With tri-region positions, it is RoPE re-alignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from afstream.config import TIMESTEPS, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.engine.schedule import add_noise
from afstream.errors import ConfigError
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_clean, predict_flow
from afstream.training.dmd.losses import (
    critic_loss,
    dmd_gradient,
    dmd_loss,
    guided,
    matching_timestep,
)
from afstream.training.dmd.sequences import Codec, LongSequence, Window, WindowPlan, replay
from afstream.training.machinery.draws import normal, pick
from afstream.training.machinery.optim import RunningAverage, adamw, fill, trained
from afstream.training.machinery.parallel import ALONE, Processes, update


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
        batch: sequences that an update learns from, over all processes.
        parts: that a process learns from its sequences in, one after the other, to need less
            memory; gradients add up to the same.
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
    parts: int = 1
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
    """One run of a stage; see `afstream.training.machinery.loop.Trainer`.

    Weights train that require gradients, in their own dtype.

    Args:
        config: how.
        models: who.
        policy: what the student's streams remember, at which positions.
        sampler: their denoise steps.
        size: of a latent frame, (C, h, w).
        processes: that share the batch.

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """

    def __init__(
        self,
        config: MatchingConfig,
        models: Models,
        policy: MemoryPolicy,
        sampler: SamplerConfig,
        size: tuple[int, int, int],
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.models = models
        self.average = RunningAverage(models.student, config.average)
        self.step = 0
        self.seconds = 0.0
        self._policy, self._sampler, self._size = policy, sampler, size
        self._processes = processes
        self._parts = _divided(processes.rows(config.batch), config.parts)
        self._optimizer, self._critic_optimizer = (
            adamw(
                trained(model).values(),
                lr=lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
            )
            for model, lr in (
                (models.student, config.lr),
                (models.critic, config.critic_lr),
            )
        )
        self._sequences: list[LongSequence] = []
        self._number = 0

    @property
    def between_sequences(self) -> bool:
        """Whether nothing is lost by stopping here: no rollout is in the making."""
        return not self._sequences

    def advance(self) -> dict[str, float]:
        """One iteration: a window, the critic's update, and now and then the student's."""
        learns = (self.step + 1) % self.config.critic_updates == 0
        rollout = Rollout.of(self.models.student, self._policy, self._sampler)
        if not self._sequences:
            self._sequences = [self._begin(rollout, rows) for rows in self._parts]
        told: dict[str, float] = {}
        for sequence, rows in zip(self._sequences, self._parts, strict=True):
            window = self._window(rollout, sequence, rows, keep=learns)
            losses = self._teach_student(rollout, window, rows) if learns else {}
            losses |= self._teach_critic(window, rows)
            motion = window.latents[:, window.counts].diff(dim=1).abs().mean()
            losses["motion"] = float(motion)
            for name, value in losses.items():
                told[name] = told.get(name, 0.0) + value / len(self._parts)
        # a run's last sequence ends with it
        if self._sequences[0].finished or self.step + 1 == self.config.iterations:
            self._sequences = []
            self._number += 1
        told = self._processes.mean(told)
        if learns:
            told["norm"] = self._update(self._optimizer)
            self._follow()
        return told | {"critic_norm": self._update(self._critic_optimizer)}

    def state(self) -> dict[str, Any] | None:
        """See `Trainer.state`: while a rollout is in the making, it cannot be told.

        All that is drawn is a function of the seed, the step and the sequence's number, so
        there are no random states.
        """
        return self._state() if self.between_sequences else None

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Trainer.restore`.

        Raises:
            CheckpointError: the state has other weights.
        """
        own = self._state()
        self._number = state["number"]
        for name, value in own.items():
            if isinstance(value, Mapping):
                fill(value, state[name], name)

    def _state(self) -> dict[str, Any]:
        student, critic = trained(self.models.student), trained(self.models.critic)
        return {
            "student": {name: weight.detach() for name, weight in student.items()},
            "critic": {name: weight.detach() for name, weight in critic.items()},
            "average": self.average.weights,
            "optimizer": {name: self._optimizer.state[it] for name, it in student.items()},
            "critic_optimizer": {
                name: self._critic_optimizer.state[it] for name, it in critic.items()
            },
            "number": self._number,
        }

    def _begin(self, rollout: Rollout, rows: Sequence[int]) -> LongSequence:
        """New streams, with the numbers that their rows of the batch have."""
        config, number = self.config, self._number
        numbers = [number * config.batch + row for row in rows]
        boundaries = config.plan.boundaries
        at = 0
        if config.switch and boundaries:
            # the same for all, as the exit step
            at = boundaries[pick(len(boundaries), config.seed, "switch", number)]
        return LongSequence(
            rollout,
            config.plan,
            self.models.prompts.pair(numbers),
            switch_frame=at,
            shape=(len(rows), self._policy.lengths.chunk_frames, *self._size),
            codec=self.models.codec,
        )

    def _window(
        self, rollout: Rollout, sequence: LongSequence, rows: Sequence[int], *, keep: bool
    ) -> Window:
        """The next window of a sequence in the making."""
        config, number, steps = self.config, self._number, len(self._sampler.steps)
        shape = (steps, self._policy.lengths.chunk_frames, *self._size)

        def noise(chunk: int) -> Tensor:
            return normal(shape, rows, config.seed, "noise", number, chunk).transpose(0, 1)

        # the same for all sequences and processes: they take part in the same model calls
        exit_step = pick(steps, config.seed, "exit", self.step)
        return sequence.advance(rollout, noise, exit_step, keep=keep)

    def _teach_student(
        self, rollout: Rollout, window: Window, rows: Sequence[int]
    ) -> dict[str, float]:
        """Gradients of distribution matching."""
        direction = self._direction(window, rows)
        leaf = window.latents.detach().clone().requires_grad_(True)
        loss = dmd_loss(leaf, direction, window.counts)
        (gradient,) = torch.autograd.grad(loss / len(self._parts), leaf)
        replay(rollout, window, gradient)
        push = float(direction.abs().mean())
        return {"student": float(loss.detach()), "push": push}

    @torch.no_grad()
    def _direction(self, window: Window, rows: Sequence[int]) -> Tensor:
        """Where teacher and critic disagree about the window, [B, 21, C, h, w]."""
        models, config = self.models, self.config
        noisy, timestep, _ = self._noised(window.latents, "student", rows)

        def clean(model: Backbone, embeds: Tensor) -> Tensor:
            return predict_clean(model, noisy, timestep, model.text_context(embeds))

        cond = clean(models.teacher, window.embeds)
        uncond = clean(models.teacher, models.prompts.unconditional(len(rows)))
        fake = clean(models.critic, window.embeds)
        real = guided(cond, uncond, config.guidance)
        return dmd_gradient(window.latents.double(), real, fake)

    def _teach_critic(self, window: Window, rows: Sequence[int]) -> dict[str, float]:
        """Gradients of the critic's loss on what the student made."""
        critic, clean = self.models.critic, window.latents
        noisy, timestep, noise = self._noised(clean, "critic", rows)
        flow = predict_flow(critic, noisy, timestep, critic.text_context(window.embeds))
        loss = critic_loss(flow, noise, clean)
        (loss / len(self._parts)).backward()
        return {"critic": float(loss.detach())}

    def _noised(
        self, clean: Tensor, what: str, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clips on their way to noise: noisy clips, their timesteps [B], the noise."""
        config = self.config
        names = config.seed, what, self.step
        drawn = [pick(TIMESTEPS, *names, "t", row) for row in rows]
        timestep = torch.tensor(
            [matching_timestep(t, config.shift) for t in drawn], device=clean.device
        )
        noise = normal(clean.shape[1:], rows, *names).to(clean)
        sigma = (timestep / TIMESTEPS)[:, None, None, None, None]
        return add_noise(clean, noise, sigma), timestep, noise

    def _update(self, optimizer: torch.optim.Optimizer) -> float:
        return update(optimizer, self.config.clip, self._processes)

    def _follow(self) -> None:
        """The average after an update of the student."""
        updates = (self.step + 1) // self.config.critic_updates
        if updates <= self.config.average_from:
            self.average.begin(self.models.student)
        else:
            self.average.update(self.models.student, updates)


def _divided(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Rows in equal parts."""
    if parts < 1 or len(rows) % parts:
        raise ConfigError(
            f"a process makes {len(rows)} sequences in {parts} parts; give a number of parts that"
            f" divides {len(rows)}"
        )
    size = len(rows) // parts
    return [rows[start : start + size] for start in range(0, len(rows), size)]
