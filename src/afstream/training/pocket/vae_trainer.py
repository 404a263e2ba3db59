"""Training of the pocket recipe's video codec on clips of the pocket world."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from afstream.errors import ConfigError
from afstream.families.pocket.clips import change_scene, random_scene
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.scene import Clip, Segment, chunk_start
from afstream.families.pocket.vae import PocketVae, VaeConfig, channels_last, group_frames
from afstream.families.pocket.world import NUM_FRAMES, render
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.muon import Muon
from afstream.training.trainer.optim import adamw, split
from afstream.training.trainer.settings import Amount, Batch, Clips, Count, Frames, Positive, Seed
from afstream.validation import Checked

# share of windows whose clip has a switch, and of those that do not begin at its start
SWITCH_SHARE = 0.6
LATER_SHARE = 0.7
# the final statistics are of clips at steps that training never reaches
STATISTICS_STEP = 2 * 10**9


class VaeTrainingConfig(Checked):
    """`[vae]`: training of the codec.

    Attributes:
        steps: optimizer steps; the learning rate ends at zero.
        batch: windows of a step.
        window_frames: video frames of a window; a first one and whole latent frames.
        learning_rate: its highest value, after the warm-up.
        warmup_steps: steps over which it rises.
        weight_decay: of Muon.
        latent_noise: highest noise added to the normalised latents, so that the decoder
            tolerates the errors of a denoiser.
        mse_weight: weight of the squared error, beside the absolute error.
        edge_weight: weight of the error of picture gradients.
        statistics_clips: clips over which the latents' mean and deviation are measured.
        seed: of weights, windows and noise.
    """

    steps: Count
    batch: Batch
    window_frames: Frames
    learning_rate: Positive
    warmup_steps: Count
    weight_decay: Amount
    latent_noise: Amount
    mse_weight: Amount
    edge_weight: Amount
    statistics_clips: Clips
    seed: Seed

    @model_validator(mode="after")
    def _fits(self) -> VaeTrainingConfig:
        """Refuse windows that the codec cannot take."""
        stride = POCKET.format.temporal_stride
        if self.window_frames % stride != 1:
            raise ConfigError(f"window_frames is {self.window_frames}; it must be 1 + {stride} n")
        if self.window_frames > NUM_FRAMES:
            raise ConfigError(
                f"window_frames is {self.window_frames}; a clip has {NUM_FRAMES} video frames"
            )
        return self

    def rate(self, step: int) -> float:
        """Learning rate as a share of its highest: a linear warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class VaeTrainer(Trainer):
    """One run of the codec's training."""

    def __init__(
        self,
        config: VaeTrainingConfig,
        sizes: VaeConfig | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.vae = channels_last(PocketVae(sizes)).to(device)
        self._device = torch.device(device)
        matrices, others = split(self.vae, is_matrix)
        rate, decay = config.learning_rate, config.weight_decay
        muon = Muon(matrices, lr=rate, weight_decay=decay)
        super().__init__({"vae": (self.vae, (muon, adamw(others, rate, (0.9, 0.99), 0.0)))})

    def advance(self) -> dict[str, float]:
        """One optimizer step; its losses and the gradient's norm.

        Windows and noise depend on the step's number alone.
        """
        config, vae = self.config, self.vae
        drawn = windows(config.batch, config.window_frames, seed=config.seed, step=self.step)
        video = drawn.to(self._device)
        generator = torch.Generator().manual_seed(config.seed * 10**6 + self.step)
        raw, _ = vae.encoder(group_frames(video, first=True), None)
        # normalised by the batch, so that noise of a given size hurts every channel alike
        std, mean = torch.std_mean(raw, dim=(0, 1, 3, 4), keepdim=True)
        level = config.latent_noise * torch.rand(len(video), 1, 1, 1, 1, generator=generator)
        noise = (level * torch.randn(raw.shape, generator=generator)).to(self._device)
        decoded, _ = vae.decode((raw - mean) / (std + 1e-4) + noise)
        mse = functional.mse_loss(decoded, video)
        edges = sum(
            functional.l1_loss(decoded.diff(dim=axis), video.diff(dim=axis)) for axis in (-1, -2)
        )
        near = functional.l1_loss(decoded, video) + config.mse_weight * mse
        loss = near + config.edge_weight * edges
        loss.backward()
        norm = self.update("vae", 1.0, config.rate(self.step))
        return {"loss": float(loss.detach()), "mse": float(mse.detach()), "norm": norm}

    @torch.no_grad()
    def finish(self) -> PocketVae:
        """The codec, ready to use: mean and deviation of its latents are set over whole clips."""
        config, vae = self.config, self.vae
        clips = (
            windows(1, NUM_FRAMES, seed=config.seed, step=STATISTICS_STEP + index)
            for index in range(config.statistics_clips)
        )
        raw = [
            vae.encoder(group_frames(clip.to(self._device), first=True), None)[0] for clip in clips
        ]
        std, mean = torch.std_mean(torch.cat(raw), dim=(0, 1, 3, 4))
        vae.latent_mean.copy_(mean)
        vae.latent_std.copy_(std)
        return vae.eval()


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon takes a weight of the codec: matrices and convolutions."""
    del name
    return weight.ndim > 1


def windows(count: int, frames: int, *, seed: int, step: int) -> Tensor:
    """The video windows [count, frames, 3, H, W] of one training step."""
    rng = np.random.default_rng((seed, step))
    return torch.from_numpy(np.stack([_window(rng, frames) for _ in range(count)]))


def _window(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Some frames of a random clip, often with a switch among them."""
    scene = random_scene(rng, companion_share=0.5)
    segments = [Segment(start=0, scene=scene, caption="")]
    if rng.random() < SWITCH_SHARE:
        switch = chunk_start(int(rng.integers(1, 5)))
        segments.append(Segment(start=switch, scene=change_scene(scene, rng)[0], caption=""))
    clip = Clip(segments=tuple(segments), seed=int(rng.integers(2**31)))
    start = int(rng.integers(NUM_FRAMES - frames + 1)) if rng.random() < LATER_SHARE else 0
    return render(clip, frames, start=start)
