"""A model without memory, and how it is to be run: what an estimate is made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from afstream.config import MemoryPolicy
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.opening import open_model
from afstream.geometry import Geometry
from afstream.memory_plan.calls import (
    CallBytes,
    DecodeBytes,
    chunk_shape,
    count_calls,
    count_decoding,
    count_encoding,
)
from afstream.memory_plan.count import META, held_bytes, weights_of
from afstream.memory_plan.tiny import tiny_decoding
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec, TextPlace
from afstream_kernels import Backend

# what files hold at most a value
FILE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a model is run, as far as memory depends on it.

    Attributes:
        geometry: of the video.
        policy: what is remembered.
        backend: of the kernels.
        graphs: model calls are captured where they can be.
        prompts: how many are known beforehand; 0 when they come later.
        text: where a Wan folder's text encoder is.
        offload: layers in host memory.
        tiny: whether a tiny decoder takes the place of the model's own.
    """

    geometry: Geometry
    policy: MemoryPolicy
    backend: Backend
    graphs: bool = True
    prompts: int = 0
    text: TextPlace = "device"
    offload: int = 0
    tiny: bool = False

    @property
    def captures(self) -> bool:
        """Whether model calls are captured; see `Rollout`."""
        return self.graphs and not self.offload and self.backend != "reference"


class Outline:
    """A model without memory, of which everything about its size is known.

    Args:
        model: on the meta device.
        spec: that it was opened by.

    Raises:
        ConfigError: its backbone's layers are not afstream's own.

    Attributes:
        model: see above.
        backbone: of the model.
        spec: see above.
    """

    def __init__(self, model: VideoModel, spec: ModelSpec) -> None:
        if not isinstance(model.backbone, Backbone):
            raise ConfigError(
                f"the memory of a {type(model.backbone).__name__} cannot be reckoned, only that of"
                " afstream's own backbone"
            )
        self.model = model
        self.backbone = model.backbone
        self.spec = spec
        self._calls: dict[object, CallBytes] = {}
        self._decoding: dict[object, DecodeBytes] = {}

    @classmethod
    def open(cls, spec: ModelSpec, *, dtype: str) -> Outline:
        """Open a model as it would be opened, but read nothing of its weights.

        Args:
            spec: which one.
            dtype: of its weights.

        Raises:
            ConfigError: what the model cannot take.
            CheckpointError: there is no such model, or a piece of it is missing or does not fit.
        """
        # places of parts are arithmetic; see `estimate`
        whole = replace(spec, device=META, dtype=dtype, text=None, offload=0)
        return cls(open_model(whole), spec)

    @property
    def is_folder(self) -> bool:
        """Whether it is a Wan folder, with a text encoder and a decoder that can be exchanged."""
        return "other VAE" in self.model.family.takes

    @cached_property
    def transit_bytes(self) -> int:
        """Most that is on the way when a Wan folder's backbone is brought to the device."""
        if not self.is_folder:
            return 0
        largest = max(weight.numel() for weight in self.backbone.parameters())
        # with a LoRA, the weight as its file holds it, in float32, and the sum
        return FILE_BYTES * largest * (3 if self.spec.loras else 1)

    @cached_property
    def backbone_bytes(self) -> int:
        """Of all weights of the backbone."""
        return held_bytes(self.backbone.parameters())

    @cached_property
    def text_bytes(self) -> int:
        """Of the text encoder's weights."""
        return held_bytes(weights_of(self.model.text))

    @cached_property
    def decoder_bytes(self) -> int:
        """Of the decoder's weights."""
        return held_bytes(weights_of(self.model.vae))

    @cached_property
    def encode_bytes(self) -> int:
        """What encoding the longest prompt takes beside the encoder's weights."""
        return count_encoding(self.model)

    def calls(self, setting: Setting) -> CallBytes:
        """What the backbone's calls take."""
        key = setting.geometry, setting.policy, setting.backend
        if key not in self._calls:
            backbone = self.model.backbone
            self._calls[key] = count_calls(
                backbone.config,
                setting.policy,
                self.model.sampler,
                setting.geometry,
                dtype=backbone.dtype,
                backend=setting.backend,
            )
        return self._calls[key]

    def decoding(self, setting: Setting) -> DecodeBytes:
        """What the decoder takes beside its weights."""
        key = setting.geometry, setting.policy, setting.tiny
        if key not in self._decoding:
            dtype = self.model.backbone.dtype
            shape = chunk_shape(self.model.backbone.config, setting.policy, setting.geometry)
            self._decoding[key] = (
                tiny_decoding(shape, dtype)
                if setting.tiny
                else count_decoding(
                    self.model.vae, shape, torch.promote_types(dtype, torch.float32)
                )
            )
        return self._decoding[key]
