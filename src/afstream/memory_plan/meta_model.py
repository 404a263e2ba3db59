"""A model on the meta device: what its weights, caches and calls take at the real size."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch

from afstream.engine.decode import decode_pictures
from afstream.engine.rollout import Rollout
from afstream.families.base import VideoModel
from afstream.families.opening import open_model
from afstream.families.presets import find_preset
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
from afstream.model.dit import Backbone, TextContext, TimeContext
from afstream.model.protocols import VideoDecoder
from afstream.spec import TINY_VAE, Addition, ModelSpec, StreamConfig
from afstream_kernels import Backend

# without gradients a layer's memory is free for the next one: more layers take no more
COUNTED_LAYERS = 2
# files hold values of at most this many bytes
FILE_BYTES = 4


class CallBytes(NamedTuple):
    """What the backbone keeps for a scene, and the most that each of its calls takes beside it.

    Attributes:
        slots: all slots of the KV cache.
        gathered: the copy of the visible slots, for backends that read one.
        text: keys and values of one prompt in all layers.
        times: embedded timesteps.
        denoise: all denoise steps of a chunk that sees a full window and a junction.
        context: the context pass.
        recache: a prompt switch; 0 where the policy computes nothing then.
        prompt: projecting a prompt, beside the keys that come out of it.
    """

    slots: int
    num_slots: int
    gathered: int
    text: int
    times: int
    denoise: int
    context: int
    recache: int
    prompt: int


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
        CannotCountError: its backbone is not afstream's own.
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
        self._calls: dict[Hashable, CallBytes] = {}
        self._decoding: dict[Hashable, DecodeBytes] = {}

    @classmethod
    def open(cls, config: StreamConfig, *, dtype: str) -> MetaModel:
        """Open a stream's model as for use, but without reading its weights.

        Raises:
            ConfigError: the model cannot take what was asked for.
            CheckpointError: there is no such model, or a piece of it is missing or does not fit.
        """
        return cls(open_meta(config, dtype=dtype), config.model)

    def takes(self, addition: Addition) -> bool:
        """Whether a spec may add something to this model, or place it."""
        return addition in self.model.family.takes

    @cached_property
    def with_tiny_vae(self) -> MetaModel | None:
        """This model with the public tiny VAE, whose file need not be there; None without one."""
        vae = self.model.family.tiny_decoder(self.backbone.dtype)
        if vae is None:
            return None
        return MetaModel(replace(self.model, vae=vae), replace(self.spec, vae=TINY_VAE))

    @cached_property
    def encode_bytes(self) -> int:
        """The most bytes that encoding the longest prompt takes; see `library_call`."""
        with library_call():
            return peak_bytes(lambda: self.model.family.encode_longest(self.model.text))

    @cached_property
    def transit_bytes(self) -> int:
        """The most bytes on the device while files' weights are copied there one by one."""
        if not self.takes("LoRA"):
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

    @property
    def latent_dtype(self) -> torch.dtype:
        """The dtype of latents: float32 or better."""
        return torch.promote_types(self.backbone.dtype, torch.float32)

    def geometry(self, size: tuple[int, int] | None) -> Geometry:
        """The geometry of a video of a width and height in pixels; None is the model's own."""
        return self.model.family.sized(*size) if size else self.model.geometry

    def chunk_shape(self, policy: MemoryPolicy, geometry: Geometry) -> tuple[int, ...]:
        """The shape of one chunk of latents, (B, c, C, h, w)."""
        size = geometry.latent_height, geometry.latent_width
        return 1, policy.lengths.chunk_frames, self.backbone.config.in_dim, *size

    def calls(self, geometry: Geometry, policy: MemoryPolicy, backend: Backend) -> CallBytes:
        """What the backbone keeps, and what its calls take: a stream of a few layers is run."""
        key = geometry, policy, backend
        if key not in self._calls:
            shape = self.chunk_shape(policy, geometry)
            self._calls[key] = self._count_calls(policy, backend, shape)
        return self._calls[key]

    def decoding(self, geometry: Geometry, policy: MemoryPolicy) -> DecodeBytes:
        """What decoding one chunk takes beside the decoder's weights."""
        key = geometry, policy
        if key not in self._decoding:
            shape = self.chunk_shape(policy, geometry)
            self._decoding[key] = count_decoding(self.model.vae, shape, self.latent_dtype)
        return self._decoding[key]

    @torch.inference_mode()
    def _count_calls(
        self, policy: MemoryPolicy, backend: Backend, shape: tuple[int, ...]
    ) -> CallBytes:
        whole, sampler = self.backbone, self.model.sampler
        config = whole.config
        few = replace(config, num_layers=min(COUNTED_LAYERS, config.num_layers))
        with torch.device(META):
            backbone = Backbone(few).to(whole.dtype).requires_grad_(False)
        embeds = torch.zeros(1, few.text_len, few.text_dim, dtype=whole.dtype, device=META)
        kept = Rollout.of(whole, policy, sampler, backend=backend)
        cache = kept.start((), shape).cache
        rollout = Rollout.of(backbone, policy, sampler, backend=backend)
        text = backbone.text_context(embeds)
        state = rollout.start(text, shape)
        clean = torch.zeros(shape, dtype=self.latent_dtype, device=META)
        # the sink; then a junction, which leaves the window as this becomes full
        lengths = policy.lengths
        sink = max(lengths.sink_frames // lengths.chunk_frames, 1)
        for index in range(sink + lengths.local_frames // lengths.chunk_frames):
            if index == sink:
                rollout.switch(state, text)
            rollout.commit(state, clean)
        # on a GPU noise comes from the host
        noise = torch.zeros(len(sampler.steps), *shape, dtype=self.latent_dtype)
        return CallBytes(
            slots=held_bytes((cache.pool.keys, cache.pool.values)),
            num_slots=cache.pool.keys.shape[2],
            gathered=held_bytes(cache.reader.copies),
            text=_key_bytes(whole.text_context(embeds)),
            times=sum(map(_time_bytes, (*kept.times, *kept.first_times))),
            denoise=peak_bytes(lambda: rollout.denoise(state, noise)),
            context=peak_bytes(lambda: rollout.commit(state, clean)),
            recache=peak_bytes(lambda: rollout.switch(state, text)),
            prompt=peak_bytes(lambda: backbone.text_context(embeds)) - _key_bytes(text),
        )


def open_meta(config: StreamConfig, *, dtype: str) -> VideoModel:
    """A stream's model on the meta device: everything is checked, and no weights are read.

    Raises:
        ConfigError: unknown dtype or preset, or the model cannot take what was asked for.
        CheckpointError: there is no such model, or a piece of it is missing or does not fit.
    """
    # where parts go changes no size; `estimate` puts them there
    whole = replace(config.model, device=META, dtype=dtype, text=None, offload=0)
    return open_model(whole, like=find_preset(config.preset, config.model))


@torch.inference_mode()
def count_decoding(
    decoder: VideoDecoder, shape: tuple[int, ...], dtype: torch.dtype
) -> DecodeBytes:
    """Decode two chunks of latents (B, c, C, h, w) on the meta device, and count at the second."""
    latents = torch.zeros(shape, dtype=dtype, device=META)
    with LiveBytes() as live:
        state = decode_pictures(decoder, latents, None)[1]
        held = live.now
        live.reset_peak()
        state = decode_pictures(decoder, latents, state)[1]
        return DecodeBytes(state=max(held, live.now), work=live.peak - held)


def _key_bytes(text: TextContext) -> int:
    return held_bytes(tensor for layer in text for tensor in (layer.k, layer.v))


def _time_bytes(time: TimeContext) -> int:
    vectors = (vector for layer in time.modulations for vector in layer)
    return held_bytes((time.embedding, time.projection, *vectors))
