"""Flow matching: sigmas, timesteps, and the way from a flow back to the clean latent.

1. noisy = (1 - sigma) * clean + sigma * noise
2. flow = noise - clean, so clean = noisy - sigma * flow
3. sigma(s) = shift * s / (1 + (shift - 1) * s), timestep = 1000 * sigma
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from afstream.config import TIMESTEPS, SamplerConfig


def shifted_sigma(s: float, shift: float) -> float:
    """Bend the noise share s (0 clean .. 1 noise) toward noise; equation 3."""
    return shift * s / (1 + (shift - 1) * s)


def add_noise(clean: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Equation 1; sigma broadcasts against the latents."""
    return (1 - sigma) * clean + sigma * noise


def clean_from_flow(noisy: Tensor, flow: Tensor, sigma: float | Tensor) -> Tensor:
    """Equation 2, in the latents' own dtype."""
    return noisy - sigma * flow.to(noisy.dtype)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The denoise steps of one chunk, noisiest first.

    Attributes:
        sigmas: noise share of each denoise step, 1 is pure noise.
    """

    sigmas: tuple[float, ...]

    @classmethod
    def of(cls, config: SamplerConfig, *, frame: int | None = None) -> Schedule:
        """The schedule of a chunk.

        Args:
            config: the denoise steps and their shift.
            frame: the chunk's first latent frame, counted from the scene's start; None stands
                for any chunk but a scene's first.
        """
        steps = config.steps if frame is None else config.steps_at(frame)
        return cls(tuple(shifted_sigma(step / TIMESTEPS, config.shift) for step in steps))

    @property
    def timesteps(self) -> tuple[float, ...]:
        """What the model is fed, 1000 * sigma."""
        return tuple(TIMESTEPS * sigma for sigma in self.sigmas)
