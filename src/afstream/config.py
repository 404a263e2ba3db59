"""Frozen, self-checking settings of the backbone, the sampler and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from afstream.errors import ConfigError
from afstream.geometry import CHUNK_FRAMES

Positions = Literal["tri-region", "absolute"]
AtSwitch = Literal["recache", "recapture", "keep", "clear"]
Junction = Literal["none", "hold", "gap"]

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
class MemoryPolicy:
    """What a stream remembers, at which positions, and what a prompt switch does to it.

    All lengths are latent frames and whole chunks.

    Attributes:
        window_frames: W, frames of self-attention without the junction.
        sink_frames: S, the first frames, kept for good; part of W.
        chunk_frames: c, frames denoised together.
        horizon_frames: H, temporal positions that the backbone was trained on.
        positions: `tri-region` keeps every distance inside the horizon; `absolute`
            puts everything at its own frame index.
        at_switch: `recache` recomputes the window under the new prompt, `recapture` the
            sink as well, `keep` changes nothing but the text, `clear` empties the memory.
        junction: whether the first chunk after a switch is kept, and whether the previous
            one stays visible (`hold`) or not (`gap`) until the new one has left the window.
    """

    window_frames: int = 12
    sink_frames: int = CHUNK_FRAMES
    chunk_frames: int = CHUNK_FRAMES
    horizon_frames: int = 21
    positions: Positions = "tri-region"
    at_switch: AtSwitch = "recache"
    junction: Junction = "hold"

    def __post_init__(self) -> None:
        """Refuse lengths that are no whole chunks or leave no room."""
        for name, frames in (("window", self.window_frames), ("sink", self.sink_frames)):
            if frames % self.chunk_frames:
                raise ConfigError(
                    f"{name} is {frames} latent frames; it must be a multiple of the chunk,"
                    f" {self.chunk_frames}"
                )
        if not self.chunk_frames <= self.local_frames:
            raise ConfigError(
                f"window is {self.window_frames} and sink {self.sink_frames} latent frames;"
                f" at least {self.chunk_frames} must be left for the current chunk"
            )
        # sink 0 .. S-1, junction H-W-c .. H-W-1, local window up to H-1: none may overlap
        junction = self.chunk_frames + self.sink_frames if self.junction != "none" else 0
        needed = self.window_frames + junction
        if self.positions == "tri-region" and needed > self.horizon_frames:
            raise ConfigError(
                f"window, junction and sink take {needed} latent frames; tri-region positions"
                f" have room for {self.horizon_frames}"
            )

    @property
    def local_frames(self) -> int:
        """L: the most recent frames, current chunk included."""
        return self.window_frames - self.sink_frames

    @property
    def num_slots(self) -> int:
        """Chunks that must be held at once: sink, local window, two junctions."""
        junctions = 0 if self.junction == "none" else 2
        return self.window_frames // self.chunk_frames + junctions

    @property
    def num_segments(self) -> int:
        """Chunks that a query can see at most: sink, local window, one junction."""
        return self.window_frames // self.chunk_frames + (self.junction != "none")


MEMORIES: dict[str, MemoryPolicy] = {
    "anchor": MemoryPolicy(),
    "recache": MemoryPolicy(positions="absolute", junction="none"),
    "recapture": MemoryPolicy(at_switch="recapture", junction="none"),
    "rolling": MemoryPolicy(positions="absolute", at_switch="keep", sink_frames=0, junction="none"),
    "clear": MemoryPolicy(positions="absolute", at_switch="clear", sink_frames=0, junction="none"),
}


def memory_policy(name: str, *, junction: str | None = None) -> MemoryPolicy:
    """Look up a memory by name, with another junction hand-over if one is given.

    Raises:
        ConfigError: unknown name, or a hand-over for a memory without a junction.
    """
    if name not in MEMORIES:
        raise ConfigError(f"memory is {name!r}; choose one of {', '.join(MEMORIES)}")
    policy = MEMORIES[name]
    if junction is None:
        return policy
    if policy.junction == "none":
        raise ConfigError(f"memory {name!r} keeps no junction; leave the hand-over out")
    if junction == "hold" or junction == "gap":
        return MemoryPolicy(junction=junction)
    raise ConfigError(f"junction hand-over is {junction!r}; choose hold or gap")
