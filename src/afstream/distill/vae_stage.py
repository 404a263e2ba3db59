"""First stage of the pocket recipe: train the video codec on the pocket world."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from afstream.distill.muon import Muon
from afstream.distill.optim import save_checkpoint
from afstream.errors import ConfigError
from afstream.geometry import TEMPORAL_STRIDE
from afstream.pocket.clips import change_scene, random_scene
from afstream.pocket.scene import Clip, Segment, chunk_start
from afstream.pocket.vae import PocketVae, VaeConfig, channels_last, group_frames, save_vae
from afstream.pocket.world import NUM_FRAMES, render

Report = Callable[[dict[str, float]], None]

# share of windows whose clip has a switch, and of those that do not begin at its start
SWITCH_SHARE = 0.6
LATER_SHARE = 0.7
# held-out clips and the final statistics use steps that training never reaches
HELD_OUT_STEP = 10**9
STATISTICS_STEP = 2 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeStageConfig:
    """How the codec is trained.

    Attributes:
        steps: optimizer steps; the learning rate ends at zero.
        batch: windows of a step.
        window_frames: video frames of a window, 1 + 4 n.
        learning_rate: its highest value, after the warm-up.
        warmup_steps: steps over which it rises.
        weight_decay: of AdamW.
        latent_noise: highest noise added to the normalised latents, so that the decoder
            forgives what a denoiser leaves.
        mse_weight: share of the squared error, beside the absolute error.
        edge_weight: share of the error of picture gradients.
        statistics_clips: clips over which the latents' mean and deviation are measured.
        seed: decides weights, windows and noise.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints.
    """

    steps: int = 2800
    batch: int = 4
    window_frames: int = 17
    learning_rate: float = 5e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    latent_noise: float = 0.3
    mse_weight: float = 8.0
    edge_weight: float = 0.5
    statistics_clips: int = 200
    seed: int = 0
    log_every: int = 50
    save_every: int = 250

    def __post_init__(self) -> None:
        """Refuse windows that the codec cannot take."""
        if self.window_frames % TEMPORAL_STRIDE != 1:
            raise ConfigError(f"window_frames is {self.window_frames}; it must be 1 + 4 n")


def train_vae(
    config: VaeStageConfig,
    folder: Path,
    report: Report,
    *,
    model_config: VaeConfig | None = None,
) -> PocketVae:
    """Train the codec, or go on where the folder's checkpoint stands.

    Writes `log.jsonl`, `checkpoint.pt` and, at the end, `vae.safetensors` to `folder`.

    Args:
        config: how to train.
        folder: where the run lives.
        report: called with every line of the log.
        model_config: sizes of the codec.

    Returns:
        The trained codec, ready to use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    vae = channels_last(PocketVae(model_config))
    weights = list(vae.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        Muon(
            [weight for weight in weights if weight.ndim > 1],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        ),
        torch.optim.AdamW(
            [weight for weight in weights if weight.ndim == 1],
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        ),
    ]
    checkpoint = folder / "checkpoint.pt"
    done, seconds = _resume(checkpoint, vae, optimizers)
    began = time.perf_counter() - seconds
    with (folder / "log.jsonl").open("a") as log:
        for step in range(done, config.steps):
            rate = config.learning_rate * _rate(config, step)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            losses = _step(vae, optimizers, config, step)
            ended = step + 1
            if ended % config.log_every == 0 or ended == config.steps:
                line = {"step": ended, **losses, "seconds": time.perf_counter() - began}
                log.write(json.dumps(line) + "\n")
                log.flush()
                report(line)
            if ended % config.save_every == 0:
                _save(checkpoint, vae, optimizers, ended, time.perf_counter() - began)
    _measure_statistics(vae, config)
    vae.eval()
    save_vae(vae, folder / "vae.safetensors")
    return vae


def windows(config: VaeStageConfig, step: int) -> Tensor:
    """The video windows [B, N, 3, 64, 64] of one training step."""
    rng = np.random.default_rng((config.seed, step))
    return torch.from_numpy(
        np.stack([_window(rng, config.window_frames) for _ in range(config.batch)])
    )


@torch.no_grad()
def held_out_mse(vae: PocketVae, *, clips: int = 16, seed: int = 0) -> float:
    """Mean squared error over whole clips that training never saw."""
    config = VaeStageConfig(batch=1, window_frames=NUM_FRAMES, seed=seed)
    errors: list[float] = []
    for index in range(clips):
        video = windows(config, HELD_OUT_STEP + index)
        latents, _ = vae.encode(video)
        decoded, _ = vae.decode(latents)
        errors.append(float(functional.mse_loss(decoded, video)))
    return sum(errors) / len(errors)


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


def _rate(config: VaeStageConfig, step: int) -> float:
    """Learning rate as a share of its highest: a linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _step(
    vae: PocketVae, optimizers: list[torch.optim.Optimizer], config: VaeStageConfig, step: int
) -> dict[str, float]:
    video = windows(config, step)
    generator = torch.Generator().manual_seed(config.seed * 10**6 + step)
    raw, _ = vae.encoder(group_frames(video, first=True), None)
    # normalised by the batch, so that noise of a given size hurts every channel alike
    std, mean = torch.std_mean(raw, dim=(0, 1, 3, 4), keepdim=True)
    level = config.latent_noise * torch.rand(len(video), 1, 1, 1, 1, generator=generator)
    noise = level * torch.randn(raw.shape, generator=generator)
    decoded, _ = vae.decode((raw - mean) / (std + 1e-4) + noise)
    mse = functional.mse_loss(decoded, video)
    edges = sum(
        functional.l1_loss(decoded.diff(dim=axis), video.diff(dim=axis)) for axis in (-1, -2)
    )
    loss = functional.l1_loss(decoded, video) + config.mse_weight * mse + config.edge_weight * edges
    vae.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return {"loss": float(loss.detach()), "mse": float(mse.detach())}


@torch.no_grad()
def _measure_statistics(vae: PocketVae, config: VaeStageConfig) -> None:
    """Set the mean and deviation of every latent channel over whole clips."""
    whole = VaeStageConfig(batch=1, window_frames=NUM_FRAMES, seed=config.seed)
    raw = [
        vae.encoder(group_frames(windows(whole, STATISTICS_STEP + index), first=True), None)[0]
        for index in range(config.statistics_clips)
    ]
    std, mean = torch.std_mean(torch.cat(raw), dim=(0, 1, 3, 4))
    vae.latent_mean.copy_(mean)
    vae.latent_std.copy_(std)


def _resume(
    path: Path, vae: PocketVae, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Steps done and seconds spent, after loading the checkpoint if there is one."""
    if not path.exists():
        return 0, 0.0
    saved = torch.load(path, weights_only=True)
    vae.load_state_dict(saved["vae"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return saved["step"], saved["seconds"]


def _save(
    path: Path, vae: PocketVae, optimizers: list[torch.optim.Optimizer], step: int, seconds: float
) -> None:
    """Write the checkpoint; windows and noise need no state, the step's number decides them."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    content = {"vae": vae.state_dict(), "optimizers": states, "step": step, "seconds": seconds}
    save_checkpoint(path, content)
