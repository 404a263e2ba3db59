"""ODE regression: how a causal student begins, before it is trained in its own rollouts.

All chunks of a clip go through one call. Each stands at a random denoise step of its own, on
the teacher's trajectory, and sees itself and the noisy chunks before it, as far as and where
a stream would show them. The student learns where the trajectory ends:

1. clean = noisy - sigma * flow
2. loss = mean((clean - end)^2), over all chunks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from afstream.attention.clip import ClipContext
from afstream.attention.rope import RopeTables
from afstream.config import SamplerConfig
from afstream.engine.schedule import Schedule, clean_from_flow
from afstream.errors import ConfigError
from afstream.geometry import PATCH
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone, TextContext
from afstream.training.dmd.trainer import Prompts
from afstream.training.machinery.draws import generator
from afstream.training.machinery.optim import RunningAverage, adamw, fill, trained
from afstream.training.machinery.parallel import ALONE, Processes, update
from afstream.training.ode.pairs import Pairs
from afstream.training.teacher_forcing import plan_clip
from afstream_kernels import choose_backend


@dataclass(frozen=True, slots=True, kw_only=True)
class OdeConfig:
    """A stage of ODE regression.

    Attributes:
        iterations: optimizer steps in all.
        batch: pairs in a step, over all processes.
        lr: learning rate.
        betas: AdamW's.
        weight_decay: AdamW's.
        clip: largest norm of a gradient.
        average: decay of the moving average of the student's weights, which is what goes on.
        seed: of the order of pairs and of the denoise steps.
    """

    iterations: int
    batch: int = 8
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 10.0
    average: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot teach anything."""
        for name, count in (("iterations", self.iterations), ("batch", self.batch)):
            if count < 1:
                raise ConfigError(f"{name} of ODE regression is {count}; it must be at least 1")
        for name, value in (("lr", self.lr), ("clip", self.clip)):
            if not value > 0:
                raise ConfigError(f"{name} of ODE regression is {value}; it must be above 0")
        for name, value in (("average", self.average), *(("betas", beta) for beta in self.betas)):
            if not 0 <= value < 1:
                raise ConfigError(
                    f"{name} of ODE regression is {value}; it must be at least 0 and below 1"
                )


class NoisyClips:
    """Clean predictions of whole clips, block-causal, their chunks at steps of their own.

    Args:
        student: causal.
        policy: what its streams remember, at which positions.
        schedule: their denoise steps.
        frames: latent frames of a clip, whole chunks.
        size: of a latent frame, (C, h, w).

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
        if frames % chunk:
            raise ConfigError(
                f"clips of ODE regression have {frames} latent frames; it must be a multiple of"
                f" the chunk, {chunk}"
            )
        self._student, self._chunk = student, chunk
        self._sigmas = torch.tensor(schedule.sigmas, device=student.device)
        self._timesteps = torch.tensor(schedule.timesteps, device=student.device)
        self._window = ClipContext(
            plan_clip(policy, frames, None, past="noisy").layout,
            grid=(chunk, size[1] // PATCH, size[2] // PATCH),
            rope=RopeTables(student.config.head_dim, student.dtype, student.device),
            backend=choose_backend(None, device=student.device, dtype=student.dtype),
        )

    def predict(self, noisy: Tensor, steps: Tensor, text: TextContext) -> Tensor:
        """Equation 1, with gradients.

        Args:
            noisy: [B, F, C, h, w], each chunk as noisy as its step says.
            steps: denoise step of each chunk [B, F / c], 0 the noisiest.
            text: the prompts.

        Returns:
            [B, F, C, h, w].
        """
        per_frame = steps.repeat_interleave(self._chunk, dim=1)
        time = self._student.time_context(self._timesteps[per_frame])
        flow = self._student(noisy, time, text, self._window)
        return clean_from_flow(noisy, flow, self._sigmas[per_frame][:, :, None, None, None])


class OdeTrainer:
    """One run of ODE regression; see `afstream.training.machinery.loop.Trainer`.

    Args:
        config: how.
        student: causal; trained in place.
        pairs: of the teacher.
        prompts: what the pairs were made of.
        policy: what the student's streams remember, at which positions.
        sampler: their denoise steps, at which the pairs must have been kept.
        processes: that share the batch.

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
        self.average = RunningAverage(student, config.average)
        self.step = 0
        self.seconds = 0.0
        self._pairs, self._prompts = pairs, prompts
        self._processes = processes
        self._rows = processes.rows(config.batch)
        self._chunk = policy.lengths.chunk_frames
        schedule = Schedule.of(sampler)
        self._num_steps = len(schedule.sigmas)
        self._clips = NoisyClips(student, policy, schedule, pairs.frames, pairs.size)
        self._optimizer = adamw(
            trained(student).values(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

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
        told = self._processes.mean({"loss": float(loss.detach())})
        norm = update(self._optimizer, self.config.clip, self._processes)
        self.average.update(self.student, self.step)
        return told | {"norm": norm}

    def state(self) -> dict[str, Any]:
        """See `Trainer.state`."""
        student = trained(self.student)
        return {
            "student": {name: weight.detach() for name, weight in student.items()},
            "average": self.average.weights,
            "optimizer": {name: self._optimizer.state[it] for name, it in student.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Trainer.restore`.

        Raises:
            CheckpointError: the state has other weights.
        """
        for name, value in self.state().items():
            fill(value, state[name], name)

    def _index(self, row: int) -> int:
        """The pair in a row of the batch: all of them in turn, then all again in another order."""
        turn, at = divmod(self.step * self.config.batch + row, len(self._pairs))
        order = torch.randperm(
            len(self._pairs), generator=generator(self.config.seed, "order", turn)
        )
        return int(order[at])

    def _steps(self, row: int) -> Tensor:
        """The denoise step of each chunk of a row, [F / c]."""
        drawn = generator(self.config.seed, "steps", self.step, row)
        count = self._pairs.frames // self._chunk
        return torch.randint(self._num_steps, (count,), generator=drawn)


def choose_steps(latents: Tensor, steps: Tensor, chunk: int) -> Tensor:
    """Clips whose chunks stand at steps of their own.

    Args:
        latents: trajectories [B, K, F, C, h, w].
        steps: of each chunk [B, F / c], below K.
        chunk: c, latent frames.

    Returns:
        [B, F, C, h, w].
    """
    chunks = latents.unflatten(2, (-1, chunk))
    rows = torch.arange(len(steps), device=steps.device)[:, None]
    places = torch.arange(steps.shape[1], device=steps.device)
    return chunks[rows, steps, places].flatten(1, 2)
