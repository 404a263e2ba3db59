"""Frozen, self-checking settings of the backbone, the sampler and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from afstream.errors import ConfigError

T = TypeVar("T")

# what the backbone is fed as pure noise
TIMESTEPS = 1000


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build the config dataclass `kind` from the entries of `values` that it knows."""
    names = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    return kind(**{name: value for name, value in values.items() if name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Sizes of a Wan2.1-class backbone; the names are those of Wan's own `config.json`."""

    dim: int
    ffn_dim: int
    freq_dim: int
    text_dim: int
    text_len: int
    num_heads: int
    num_layers: int
    in_dim: int = 16
    out_dim: int = 16
    eps: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be split into heads and rotated pairs."""
        if self.dim % (2 * self.num_heads):
            raise ConfigError(
                f"dim is {self.dim} and num_heads {self.num_heads}; dim must be an even"
                " multiple of num_heads"
            )

    @property
    def head_dim(self) -> int:
        """Values per head."""
        return self.dim // self.num_heads


WAN_BACKBONES: dict[str, BackboneConfig] = {
    "wan-1.3b": BackboneConfig(
        dim=1536,
        ffn_dim=8960,
        freq_dim=256,
        text_dim=4096,
        text_len=512,
        num_heads=12,
        num_layers=30,
    ),
    "wan-14b": BackboneConfig(
        dim=5120,
        ffn_dim=13824,
        freq_dim=256,
        text_dim=4096,
        text_len=512,
        num_heads=40,
        num_layers=40,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """The few denoise steps, on the scale of a thousand training steps, and their shift."""

    steps: tuple[int, ...] = (1000, 750, 500, 250)
    shift: float = 5.0

    def __post_init__(self) -> None:
        """Refuse steps that do not go down from at most 1000 to more than 0."""
        going_down = all(a > b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not going_down or self.steps[0] > TIMESTEPS or self.steps[-1] <= 0:
            raise ConfigError(
                f"denoise steps are {self.steps}; they must go down within 1000 .. 1,"
                " for example (1000, 750, 500, 250)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLengths:
    """How much of the past a model was trained to see, in latent frames and whole chunks.

    Attributes:
        window_frames: W, frames of self-attention without the junction.
        sink_frames: S, the first frames, kept for good; part of W.
        chunk_frames: c, frames denoised together.
        horizon_frames: H, temporal positions that the backbone was trained on.
    """

    window_frames: int
    sink_frames: int
    chunk_frames: int
    horizon_frames: int

    def __post_init__(self) -> None:
        """Refuse lengths that are no whole chunks or leave no room."""
        for name, frames in (("window", self.window_frames), ("sink", self.sink_frames)):
            if frames % self.chunk_frames:
                raise ConfigError(
                    f"{name} is {frames} latent frames; it must be a multiple of the chunk,"
                    f" {self.chunk_frames}"
                )
        if self.local_frames < self.chunk_frames:
            raise ConfigError(
                f"window is {self.window_frames} and sink {self.sink_frames} latent frames;"
                f" at least {self.chunk_frames} must be left for the current chunk"
            )

    @property
    def local_frames(self) -> int:
        """L: the most recent frames, current chunk included."""
        return self.window_frames - self.sink_frames

    @property
    def window_chunks(self) -> int:
        """Chunks of the window, sink included."""
        return self.window_frames // self.chunk_frames
