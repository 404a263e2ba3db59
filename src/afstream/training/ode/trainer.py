"""ODE regression: causal initialisation of a student, before it is trained in its own rollouts.

All chunks of a clip go through one call. Each is at a random denoise step of its own, on the
teacher's trajectory, and sees itself and the noisy chunks before it that a stream would show it, at
the stream's positions. The student learns where the trajectory ends:

1. clean = noisy - sigma * flow
2. loss = mean((clean - end)^2), over all chunks
"""

from __future__ import annotations

import torch
from torch import Tensor

from afstream.config import SamplerConfig
from afstream.engine.schedule import Schedule, clean_from_flow
from afstream.errors import ConfigError
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone, TextContext
from afstream.training.dmd.bidirectional import clip_context
from afstream.training.dmd.trainer import Prompts
from afstream.training.ode.pairs import Pairs
from afstream.training.teacher_forcing import plan_clip
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.optim import Ema, adamw
from afstream.training.trainer.rng import generator, in_turn
from afstream.training.trainer.settings import AdamWConfig, check_chunks


class OdeConfig(AdamWConfig):
    """`[ode]`: causal initialisation by regression; a sample of the batch is a pair."""


class NoisyClips:
    """Clean predictions of whole clips, block-causal, each chunk at a denoise step of its own.

    `policy` is what the student's streams remember, `frames` the latent frames of a clip, `size`
    that of a latent frame, (C, h, w).

    Raises:
        ConfigError: a clip is not made of whole chunks.
    """

    def __init__(
        self,
        student: Backbone,
        policy: MemoryPolicy,
        schedule: Schedule,
        frames: int,
        size: tuple[int, int, int],
    ) -> None:
        chunk = policy.lengths.chunk_frames
        check_chunks("pairs.frames", frames, chunk)
        self._student, self._chunk = student, chunk
        self._sigmas = torch.tensor(schedule.sigmas, device=student.device)
        self._timesteps = torch.tensor(schedule.timesteps, device=student.device)
        layout = plan_clip(policy, frames, None, past="noisy").layout
        self._window = clip_context(student, layout, (chunk, *size[1:]))

    def predict(self, noisy: Tensor, steps: Tensor, text: TextContext) -> Tensor:
        """Equation 1, with gradients: clean clips [B, F, C, h, w] from noisy ones of that shape.

        `steps` [B, F / c] is the denoise step of each chunk, 0 the noisiest.
        """
        per_frame = steps.repeat_interleave(self._chunk, dim=1)
        time = self._student.time_context(self._timesteps[per_frame])
        flow = self._student(noisy, time, text, self._window)
        return clean_from_flow(noisy, flow, self._sigmas[per_frame][:, :, None, None, None])


class OdeTrainer(Trainer):
    """One run of ODE regression, on pairs and the prompts that they were made with.

    `policy` is what the student's streams remember, at which positions; the pairs must have been
    kept at the denoise steps of `sampler`.

    Raises:
        ConfigError: the pairs were kept at other steps, their clips are not made of whole
            chunks, or the batch cannot be divided evenly.
    """

    def __init__(
        self,
        config: OdeConfig,
        student: Backbone,
        pairs: Pairs,
        prompts: Prompts,
        policy: MemoryPolicy,
        sampler: SamplerConfig,
        processes: Processes = ALONE,
    ) -> None:
        if pairs.sampler != sampler:
            raise ConfigError(
                f"the ODE pairs were kept at denoise steps {pairs.sampler.steps} with shift"
                f" {pairs.sampler.shift}, the student has {sampler.steps} with {sampler.shift};"
                " make pairs for its steps"
            )
        self.config = config
        self.student = student
        self.ema = Ema(student, config.ema)
        optimizer = adamw(student, config.lr, config.betas, config.weight_decay)
        super().__init__({"student": (student, [optimizer])}, ema=self.ema, processes=processes)
        self._pairs, self._prompts = pairs, prompts
        self._rows = processes.rows(config.batch)
        self._chunk = policy.lengths.chunk_frames
        schedule = Schedule.of(sampler)
        self._num_steps = len(schedule.sigmas)
        self._clips = NoisyClips(student, policy, schedule, pairs.frames, pairs.size)

    def advance(self) -> dict[str, float]:
        """One optimizer step; its loss, and the gradient's norm before it was clipped."""
        indices = [self._index(row) for row in self._rows]
        steps = torch.stack([self._steps(row) for row in self._rows])
        latents = self._pairs.latents(indices)
        noisy = choose_steps(latents, steps, self._chunk).to(self.student.device)
        embeds, _ = self._prompts.pair([self._pairs.numbers[index] for index in indices])
        text = self.student.text_context(embeds)
        clean = self._clips.predict(noisy, steps.to(noisy.device), text)
        loss = (clean - latents[:, -1].to(clean)).square().mean()
        loss.backward()
        metrics = self.processes.mean({"loss": float(loss.detach())})
        norm = self.update("student", self.config.clip)
        self.ema.update(self.step)
        return metrics | {"norm": norm}

    def _index(self, row: int) -> int:
        """The pair in a row of the batch."""
        number = self.step * self.config.batch + row
        return in_turn(number, len(self._pairs), self.config.seed)

    def _steps(self, row: int) -> Tensor:
        """The denoise step of each chunk of a row, [F / c]."""
        drawn = generator(self.config.seed, "steps", self.step, row)
        count = self._pairs.frames // self._chunk
        return torch.randint(self._num_steps, (count,), generator=drawn)


def choose_steps(latents: Tensor, steps: Tensor, chunk: int) -> Tensor:
    """Clips [B, F, C, h, w] from trajectories [B, K, F, C, h, w], each chunk at a step of its own.

    `steps` [B, F / c] is below K; a chunk has `chunk` latent frames, c.
    """
    chunks = latents.unflatten(2, (-1, chunk))
    rows = torch.arange(len(steps), device=steps.device)[:, None]
    places = torch.arange(steps.shape[1], device=steps.device)
    return chunks[rows, steps, places].flatten(1, 2)
