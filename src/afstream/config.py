"""Frozen, self-checking settings of the backbone, the sampler and the memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, Gt, Le

from afstream.errors import ConfigError

# what the backbone is fed as pure noise
TIMESTEPS = 1000

# bounds far above any model: what lies beyond them is a damaged file
Size = Annotated[int, Ge(1), Le(2**16)]
Count = Annotated[int, Ge(1), Le(2**10)]
Layers = Annotated[int, Ge(1), Le(2**8)]
Rows = Annotated[int, Ge(1), Le(2**12)]
Eps = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Sizes of a Wan2.1-class backbone; the names are those of Wan's own `config.json`.

    Attributes:
        dim: values of a token.
        ffn_dim: values inside a feed-forward.
        freq_dim: values of a timestep's sinusoid, before it is embedded.
        text_dim: values of a row of prompt embeddings.
        text_len: most rows of a prompt.
        num_heads: heads of both kinds of attention.
        patch: rows, and columns, of latent values in a token.
        in_dim: channels of the latents that come in.
        out_dim: channels of the flow.
        eps: of all norms.
    """

    dim: Size
    ffn_dim: Size
    freq_dim: Size
    text_dim: Size
    text_len: Rows
    num_heads: Count
    num_layers: Layers
    patch: Count
    in_dim: Count = 16
    out_dim: Count = 16
    eps: Eps = 1e-6

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


WAN_1_3B = BackboneConfig(
    dim=1536,
    ffn_dim=8960,
    freq_dim=256,
    text_dim=4096,
    text_len=512,
    num_heads=12,
    num_layers=30,
    patch=2,
)
WAN_BACKBONES: dict[str, BackboneConfig] = {
    "wan-1.3b": WAN_1_3B,
    "wan-14b": replace(WAN_1_3B, dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """The few denoise steps, on the scale of a thousand training steps, and their shift.

    Attributes:
        steps: where each denoise step of a chunk begins, the noisiest first.
        shift: bends the steps toward noise; see `afstream.engine.schedule`.
        first_steps: those of a scene's first chunk; None where they are the same.
    """

    steps: tuple[int, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    first_steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse steps that do not go down from at most 1000 to more than 0."""
        for steps in (self.steps, self.steps_at(0)):
            going_down = all(a > b for a, b in pairwise(steps))
            if not steps or not going_down or steps[0] > TIMESTEPS or steps[-1] <= 0:
                raise ConfigError(
                    f"denoise steps are {steps}; they must go down within 1000 .. 1,"
                    " for example (1000, 750, 500, 250)"
                )

    def steps_at(self, frame: int) -> tuple[int, ...]:
        """The denoise steps of the chunk that begins with a scene's latent frame `frame`."""
        if frame == 0 and self.first_steps is not None:
            return self.first_steps
        return self.steps

    @property
    def most_steps(self) -> int:
        """Denoise steps of the chunk that has most of them."""
        return max(len(self.steps), len(self.steps_at(0)))


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
