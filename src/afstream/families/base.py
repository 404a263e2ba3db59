"""What every family of models answers, and one of its models ready to stream.

Torch is imported when a model is opened, not with this module: a command that only lays out a
timeline asks a family for its frame rate and its chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from afstream.config import SamplerConfig, WindowLengths
from afstream.errors import ConfigError
from afstream.geometry import Geometry, VideoFormat
from afstream.spec import Addition, ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from afstream.checkpoints.findings import Finding
    from afstream.model.protocols import DenoisingBackbone, TextEncoder, VideoDecoder


# details of a model that leave its frames as they are
PLACES = ("path", "text")


class Placement(NamedTuple):
    """Where a model runs, and the dtype of its weights there."""

    device: torch.device
    dtype: torch.dtype


class ModelFamily(Protocol):
    """One kind of model: how it is given, what it can take, its sizes, and how it is opened.

    A family is a class that derives from this one, and a row in `afstream.families.registry`.

    Attributes:
        name: its key in the registry.
        given_as: what a user gives as the model, in words, for error messages.
        format: frame rate and strides of its codec.
        geometry: its own video size, and what a token covers.
        lengths: what it was trained to attend to.
        any_size: whether other video sizes can be asked for.
        takes: what a `ModelSpec` may add to it or say about its parts.
        kept_prompts: most prompts whose embeddings its text encoder keeps.
    """

    name: str
    given_as: str
    format: VideoFormat
    geometry: Geometry
    lengths: WindowLengths
    any_size: bool = False
    takes: frozenset[Addition] = frozenset()
    kept_prompts: int = 0

    def names(self, spec: ModelSpec) -> bool:
        """Whether a spec's name means a model of this family.

        Raises:
            OSError: it is a path out of reach.
        """
        ...

    def open(self, spec: ModelSpec, where: Placement, prompts: Sequence[str] = ()) -> VideoModel:
        """Load a model; on the meta device everything is checked, and no weights are read.

        Args:
            spec: asks for nothing but what the family takes.
            where: its device and the dtype of its weights; these of the spec are resolved here.
            prompts: those that are known beforehand.

        Raises:
            CheckpointError: there is no such model, or a piece is missing or does not fit.
            ConfigError: more layers are to be offloaded than there are.
            PromptError: the model cannot understand a prompt.
        """
        ...

    def identify(self, path: Path) -> Finding | None:
        """What a file or a folder is, or a model that is given by its name; reads no weights.

        Returns:
            None, or a finding of the kind `unknown`, for what does not belong to the family, or is
            not there.

        Raises:
            CheckpointError: it is damaged, or no checkpoint.
            OSError: it is out of reach.
        """
        return None

    def check_prompt(self, text: TextEncoder, prompt: str) -> None:
        """See that a text encoder of this family takes a prompt; it may be on the meta device.

        Left as it is, every prompt is taken.

        Raises:
            PromptError: it is too long, or has words that the model does not know.
        """

    def encode_longest(self, text: TextEncoder) -> None:
        """Encode a prompt of the greatest length on the meta device, to count bytes by.

        Left as it is, a family's text encoder counts as taking nothing beside its weights.
        """

    def tiny_decoder(self, dtype: torch.dtype) -> VideoDecoder | None:
        """The smallest public decoder of its latents on the meta device, to count bytes by.

        Returns:
            None where there is none that can take the place of its own.
        """
        return None

    def sized(self, width_px: int, height_px: int) -> Geometry:
        """Another video size.

        Raises:
            ConfigError: it does not split into whole tokens.
        """
        return replace(self.geometry, width_px=width_px, height_px=height_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoModel:
    """A model ready to stream.

    Attributes:
        name: as the user knows it.
        sampler: the denoise steps that it was distilled for.
        details: what a run record should say about it, plain data.
    """

    name: str
    family: ModelFamily
    backbone: DenoisingBackbone
    text: TextEncoder
    vae: VideoDecoder
    sampler: SamplerConfig
    details: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def format(self) -> VideoFormat:
        """Frame rate and strides of its codec."""
        return self.family.format

    @property
    def geometry(self) -> Geometry:
        """Its own video size."""
        return self.family.geometry

    @property
    def identity(self) -> dict[str, str]:
        """Name and details without those that change no frame: where its files and parts lie."""
        details = {name: text for name, text in self.details.items() if name not in PLACES}
        return {"name": self.name, **details}

    def sized(self, size: tuple[int, int] | None) -> Geometry:
        """Its own video size, or another one in pixels; `ConfigError` where it cannot make that."""
        own = self.geometry
        if size is None or size == (own.width_px, own.height_px):
            return own
        if not self.family.any_size:
            raise ConfigError(
                f"size is {size[0]}x{size[1]}; the model {self.name!r} makes"
                f" {own.width_px}x{own.height_px} px only (a video can be scaled when written)"
            )
        return self.family.sized(*size)
