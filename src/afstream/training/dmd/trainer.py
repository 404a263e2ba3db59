"""DMD: a student trained in its own rollouts against a bidirectional teacher.

Each iteration makes one window of a long rollout and trains the critic on it; at every
`critic_updates`-th iteration the student learns from it as well. With sequences of one window, it
is short-window self-forcing; with sequences of up to a minute and a switch in each, streaming long
tuning. With tri-region positions, it is RoPE re-alignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.losses import (
    critic_loss,
    dmd_gradient,
    dmd_loss,
    dmd_timestep,
    guided,
)
from afstream.training.dmd.sequences import Codec, LongSequence, Window, replay
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.optim import Ema, adamw
from afstream.training.trainer.rng import normal, pick


class Prompts(Protocol):
    """Pairs of prompts as embeddings, by number."""

    def pair(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, text_dim] of the first and the second prompts of pairs."""
        ...

    def full(self, numbers: Sequence[int]) -> Tensor:
        """Embeddings [B, T, text_dim] of second prompts, reworded so that none leaves anything out.

        Raises:
            ConfigError: nobody knows how these prompts would be completed.
        """
        ...

    def unconditional(self, count: int) -> Tensor:
        """Embeddings [B, T, text_dim] of what guidance leads away from."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The networks of DMD, and the prompts of its rollouts; see `LongSequence` for the codec.

    The student is causal and makes videos in few steps. Critic (the fake score) and teacher (the
    real score) are bidirectional; the critic is trained to know what the student makes.
    """

    student: Backbone
    critic: Backbone
    teacher: Backbone
    codec: Codec | None
    prompts: Prompts


class DmdTrainer(Trainer):
    """One run of a stage: weights that require gradients train, in their own dtype.

    `policy` is what the student's streams remember and at which positions, `sampler` holds its
    denoise steps, `size` is that of a latent frame, (C, h, w).

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """

    def __init__(
        self,
        config: DmdConfig,
        models: Models,
        policy: MemoryPolicy,
        sampler: SamplerConfig,
        size: tuple[int, int, int],
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.models = models
        self.ema = Ema(models.student, config.ema)
        super().__init__(
            {
                name: (model, [adamw(model, lr, config.betas, config.weight_decay)])
                for name, model, lr in (
                    ("student", models.student, config.lr),
                    ("critic", models.critic, config.critic_lr),
                )
            },
            ema=self.ema,
            processes=processes,
        )
        self._policy, self._sampler, self._size = policy, sampler, size
        self._parts = _divided(processes.rows(config.batch), config.grad_accum)
        self._sequences: list[LongSequence] = []
        self._number = 0

    def advance(self) -> dict[str, float]:
        """One iteration: a window, the critic's update, and at some iterations the student's."""
        learns = (self.step + 1) % self.config.critic_updates == 0
        rollout = Rollout.of(self.models.student, self._policy, self._sampler)
        if not self._sequences:
            self._sequences = [self._begin(rollout, rows) for rows in self._parts]
        metrics: dict[str, float] = {}
        for sequence, rows in zip(self._sequences, self._parts, strict=True):
            window = self._window(rollout, sequence, rows, keep=learns)
            losses = self._teach_student(rollout, window, rows) if learns else {}
            losses |= self._teach_critic(window, rows)
            motion = window.latents[:, window.counts].diff(dim=1).abs().mean()
            losses["motion"] = float(motion)
            for name, value in losses.items():
                metrics[name] = metrics.get(name, 0.0) + value / len(self._parts)
        # a run's last sequence ends with it
        if self._sequences[0].finished or self.step + 1 == self.config.iterations:
            self._sequences = []
            self._number += 1
        metrics = self.processes.mean(metrics)
        if learns:
            metrics["norm"] = self.update("student", self.config.clip)
            updates = (self.step + 1) // self.config.critic_updates
            if updates <= self.config.ema_from:
                self.ema.reset()
            else:
                self.ema.update(updates)
        critic_norm = self.update("critic", self.config.clip)
        return metrics | {"critic_norm": critic_norm}

    def state(self) -> dict[str, Any] | None:
        """See `Trainer.state`: None inside a sequence, whose keys and values would be gigabytes.

        All that is drawn is a function of the seed, the step and the sequence's number, so
        there are no random states.
        """
        if self._sequences:
            return None
        return {**(super().state() or {}), "number": self._number}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Trainer.restore`."""
        self._number = state["number"]

    def _begin(self, rollout: Rollout, rows: Sequence[int]) -> LongSequence:
        """Begin streams for these rows of the batch."""
        config, number = self.config, self._number
        at = 0
        if config.switch and config.boundaries:
            # the same for all, as the exit step
            at = config.boundaries[pick(len(config.boundaries), config.seed, "switch", number)]
        prompts, numbers = self.models.prompts, [number * config.batch + row for row in rows]
        return LongSequence(
            rollout,
            config,
            prompts.pair(numbers),
            told=prompts.full(numbers) if config.full_prompts else None,
            switch_frame=at,
            shape=(len(rows), self._policy.lengths.chunk_frames, *self._size),
            codec=self.models.codec,
        )

    def _window(
        self, rollout: Rollout, sequence: LongSequence, rows: Sequence[int], *, keep: bool
    ) -> Window:
        """Make the next window of a sequence."""
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
        """Add the DMD loss's gradients to the student's."""
        dmd_grad = self._dmd_gradient(window, rows)
        leaf = window.latents.detach().clone().requires_grad_(True)
        loss = dmd_loss(leaf, dmd_grad, window.counts)
        (gradient,) = torch.autograd.grad(loss / len(self._parts), leaf)
        replay(rollout, window, gradient)
        return {"student": float(loss.detach()), "dmd_grad": float(dmd_grad.abs().mean())}

    @torch.no_grad()
    def _dmd_gradient(self, window: Window, rows: Sequence[int]) -> Tensor:
        """The DMD gradient of a window, [B, F, C, h, w]; see `dmd_gradient`."""
        models, config = self.models, self.config
        noisy, timestep, _ = self._noised(window.latents, "student", rows)

        def clean(model: Backbone, embeds: Tensor) -> Tensor:
            return predict_clean(model, noisy, timestep, model.text_context(embeds))

        cond = clean(models.teacher, window.told)
        uncond = clean(models.teacher, models.prompts.unconditional(len(rows)))
        fake = clean(models.critic, window.told)
        real = guided(cond, uncond, config.guidance)
        return dmd_gradient(window.latents.double(), real, fake)

    def _teach_critic(self, window: Window, rows: Sequence[int]) -> dict[str, float]:
        """Add the gradients of the critic's loss on what the student made."""
        critic, clean = self.models.critic, window.latents
        noisy, timestep, noise = self._noised(clean, "critic", rows)
        flow = predict_flow(critic, noisy, timestep, critic.text_context(window.told))
        loss = critic_loss(flow, noise, clean)
        (loss / len(self._parts)).backward()
        return {"critic": float(loss.detach())}

    def _noised(
        self, clean: Tensor, what: str, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add noise to clips: the noisy clips, their timesteps [B], the noise."""
        config = self.config
        names = config.seed, what, self.step
        drawn = [pick(TIMESTEPS, *names, "t", row) for row in rows]
        timestep = torch.tensor([dmd_timestep(t, config.shift) for t in drawn], device=clean.device)
        noise = normal(clean.shape[1:], rows, *names).to(clean)
        sigma = (timestep / TIMESTEPS)[:, None, None, None, None]
        return add_noise(clean, noise, sigma), timestep, noise


def _divided(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Divide rows into a number of equal parts."""
    if parts < 1 or len(rows) % parts:
        raise ConfigError(
            f"grad_accum is {parts} and a process makes {len(rows)} sequences; give a number that"
            f" divides {len(rows)}"
        )
    size = len(rows) // parts
    return [rows[start : start + size] for start in range(0, len(rows), size)]
