"""A model on the meta device: what its weights, caches and calls take at the real size."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from afstream.engine.decode import decode_pictures
from afstream.engine.rollout import Rollout
from afstream.families.base import VideoModel
from afstream.families.opening import open_model
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.count import (
    META,
    CannotCountError,
    LiveBytes,
    held_bytes,
    library_call,
    peak_bytes,
    weights_of,
)
from afstream.model.dit import Backbone, TextContext
from afstream.model.protocols import VideoDecoder
from afstream.spec import TINY_VAE, ModelSpec
from afstream_kernels import Backend

# without gradients a layer's memory is free for the next one: more layers take no more
COUNTED_LAYERS = 2
# files hold values of at most this many bytes
FILE_BYTES = 4

T = TypeVar("T")


class CallBytes(NamedTuple):
    """The most bytes that each call of the backbone takes beside weights, slots and text keys.

    Attributes:
        denoise: all denoise steps of a chunk that sees a full window and a junction.
        context: the context pass.
        recache: a prompt switch; 0 where the memory computes nothing then.
        prompt: projecting a prompt, beside the keys that come out of it.
    """

    denoise: int
    context: int
    recache: int
    prompt: int


class SceneBytes(NamedTuple):
    """Bytes that the backbone keeps for a scene.

    Attributes:
        slots: all slots of the KV cache.
        num_slots: how many slots there are.
        gathered: the copy of the visible slots, for backends that read one.
        text: keys and values of one prompt in all layers.
        times: embedded timesteps.
    """

    slots: int
    num_slots: int
    gathered: int
    text: int
    times: int


class DecodeBytes(NamedTuple):
    """Bytes of the decoder beside its weights: carried between chunks, and used within one."""

    state: int
    work: int


class MetaModel:
    """A model on the meta device, for counting bytes.

    Args:
        model: on the meta device.
        spec: what it was opened from.
        name: what reports call it; the spec's name by default.

    Raises:
        CannotCountError: its backbone's layers are not afstream's own.
    """

    def __init__(self, model: VideoModel, spec: ModelSpec, *, name: str = "") -> None:
        if not isinstance(model.backbone, Backbone):
            raise CannotCountError(
                f"the memory of a {type(model.backbone).__name__} cannot be counted, only that of"
                " afstream's own backbone"
            )
        self.model = model
        self.backbone = model.backbone
        self.spec = spec
        self.name = name or spec.name
        self._counted: dict[Hashable, object] = {}

    @classmethod
    def open(cls, spec: ModelSpec, *, dtype: str) -> MetaModel:
        """Open a model as for use, but without reading its weights.

        Args:
            spec: which model.
            dtype: of its weights.

        Raises:
            ConfigError: the model cannot take what was asked for.
            CheckpointError: there is no such model, or a piece of it is missing or does not fit.
        """
        # where parts go changes no size; `estimate` puts them there
        whole = replace(spec, device=META, dtype=dtype, text=None, offload=0)
        return cls(open_model(whole), spec)

    @property
    def is_folder(self) -> bool:
        """Whether text encoder and decoder are parts of a folder that can be placed or replaced."""
        return "place for the text encoder" in self.model.family.takes

    @cached_property
    def with_tiny_vae(self) -> MetaModel | None:
        """This model with the public tiny VAE, whose file need not be there; None without one."""
        vae = self.model.family.tiny_decoder(self.backbone.dtype)
        if vae is None:
            return None
        spec = replace(self.spec, vae=TINY_VAE)
        return MetaModel(replace(self.model, vae=vae), spec, name=self.name)

    @cached_property
    def encode_bytes(self) -> int:
        """The most bytes that encoding the longest prompt takes; 0 for small built-in encoders.

        Raises:
            CannotCountError: the installed transformers cannot run on the meta device.
        """
        with library_call():
            return peak_bytes(lambda: self.model.family.encode_longest(self.model.text))

    @cached_property
    def transit_bytes(self) -> int:
        """The most bytes on the device while a folder's weights are copied there one by one."""
        if not self.is_folder:
            return 0
        largest = max(weight.numel() for weight in self.backbone.parameters())
        # with a LoRA: the weight as its file holds it, in float32, and the sum
        return FILE_BYTES * largest * (3 if self.spec.loras else 1)

    @cached_property
    def backbone_bytes(self) -> int:
        """Bytes of all backbone weights."""
        return held_bytes(self.backbone.parameters())

    @cached_property
    def text_bytes(self) -> int:
        """Bytes of all text encoder weights."""
        return held_bytes(weights_of(self.model.text))

    @cached_property
    def decoder_bytes(self) -> int:
        """Bytes of all decoder weights."""
        return held_bytes(weights_of(self.model.vae))

    def geometry(self, size: tuple[int, int] | None) -> Geometry:
        """The geometry of a video of a width and height in pixels; None is the model's own."""
        own = self.model.geometry
        return replace(own, width_px=size[0], height_px=size[1]) if size else own

    def chunk_shape(self, policy: MemoryPolicy, geometry: Geometry) -> tuple[int, ...]:
        """The shape of one chunk of latents, (B, c, C, h, w)."""
        channels = self.backbone.config.in_dim
        frames = policy.lengths.chunk_frames
        return 1, frames, channels, geometry.latent_height, geometry.latent_width

    @property
    def latent_dtype(self) -> torch.dtype:
        """The dtype of latents: float32 or better."""
        return torch.promote_types(self.backbone.dtype, torch.float32)

    def scene(self, geometry: Geometry, policy: MemoryPolicy, backend: Backend) -> SceneBytes:
        """What a scene keeps, as a stream allocates it."""

        def count() -> SceneBytes:
            backbone = self.backbone
            rollout = Rollout.of(backbone, policy, self.model.sampler, backend=backend)
            text = backbone.text_context(_embeds(backbone))
            cache = rollout.start(text, self.chunk_shape(policy, geometry)).cache
            return SceneBytes(
                slots=held_bytes((cache.pool.keys, cache.pool.values)),
                num_slots=cache.pool.keys.shape[2],
                gathered=held_bytes(cache.reader.copies),
                text=_key_bytes(text),
                times=held_bytes(tensor for time in rollout.times for tensor in time),
            )

        return self._once(("scene", geometry, policy, backend), count)

    def calls(self, geometry: Geometry, policy: MemoryPolicy, backend: Backend) -> CallBytes:
        """What the backbone's calls take, counted by running a stream of a few layers."""
        return self._once(
            ("calls", geometry, policy, backend),
            lambda: self._count_calls(policy, backend, self.chunk_shape(policy, geometry)),
        )

    def decoding(self, geometry: Geometry, policy: MemoryPolicy) -> DecodeBytes:
        """What decoding one chunk takes beside the decoder's weights.

        Raises:
            CannotCountError: the installed diffusers cannot run on the meta device.
        """

        def count() -> DecodeBytes:
            # only a folder's decoder runs a library's layers
            with library_call() if self.is_folder else nullcontext():
                shape = self.chunk_shape(policy, geometry)
                return count_decoding(self.model.vae, shape, self.latent_dtype)

        return self._once(("decoding", geometry, policy), count)

    @torch.inference_mode()
    def _count_calls(
        self, policy: MemoryPolicy, backend: Backend, shape: tuple[int, ...]
    ) -> CallBytes:
        whole = self.backbone
        few = replace(whole.config, num_layers=min(COUNTED_LAYERS, whole.config.num_layers))
        with torch.device(META):
            backbone = Backbone(few).to(whole.dtype).requires_grad_(False)
        rollout = Rollout.of(backbone, policy, self.model.sampler, backend=backend)
        embeds = _embeds(backbone)
        text = backbone.text_context(embeds)
        state = rollout.start(text, shape)
        clean = torch.zeros(shape, dtype=self.latent_dtype, device=META)
        # the sink; the chunk after it becomes the junction, and leaves the window, which is full
        # then
        lengths = policy.lengths
        sink = max(lengths.sink_frames // lengths.chunk_frames, 1)
        for index in range(sink + lengths.local_frames // lengths.chunk_frames):
            if index == sink:
                rollout.switch(state, text)
            rollout.commit(state, clean)
        # on a GPU noise comes from the host
        noise = torch.zeros(len(self.model.sampler.steps), *shape, dtype=self.latent_dtype)
        return CallBytes(
            denoise=peak_bytes(lambda: rollout.denoise(state, noise)),
            context=peak_bytes(lambda: rollout.commit(state, clean)),
            recache=peak_bytes(lambda: rollout.switch(state, text)),
            prompt=peak_bytes(lambda: backbone.text_context(embeds)) - _key_bytes(text),
        )

    def _once(self, key: Hashable, count: Callable[[], T]) -> T:
        """Count what was not counted yet."""
        if key not in self._counted:
            self._counted[key] = count()
        return self._counted[key]  # pyright: ignore[reportReturnType]


@torch.inference_mode()
def count_decoding(
    decoder: VideoDecoder, shape: tuple[int, ...], dtype: torch.dtype
) -> DecodeBytes:
    """Decode two chunks of a scene, and count at the second.

    Args:
        decoder: on the meta device.
        shape: of a chunk of latents, (B, c, C, h, w).
        dtype: of the latents.
    """
    latents = torch.zeros(shape, dtype=dtype, device=META)
    with LiveBytes() as live:
        state = decode_pictures(decoder, latents, None)[1]
        held = live.now
        live.reset_peak()
        state = decode_pictures(decoder, latents, state)[1]
        return DecodeBytes(state=max(held, live.now), work=live.peak - held)


def _embeds(backbone: Backbone) -> Tensor:
    """A prompt of the greatest length, [1, T, text_dim]."""
    config = backbone.config
    return torch.zeros(1, config.text_len, config.text_dim, dtype=backbone.dtype, device=META)


def _key_bytes(text: TextContext) -> int:
    return held_bytes(tensor for layer in text for tensor in (layer.k, layer.v))
