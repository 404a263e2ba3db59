"""What a stream's calls take while they run, counted on the meta device at the real size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from afstream.config import BackboneConfig, MemoryPolicy, SamplerConfig
from afstream.engine.decode import decode_pictures
from afstream.engine.rollout import Rollout
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.memory_plan.count import META, LiveBytes
from afstream.model.dit import Backbone
from afstream.model.protocols import VideoDecoder
from afstream_kernels import Backend

# without gradients a layer's memory is free for the next one: more layers take no more
COUNTED_LAYERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBytes:
    """Most memory that each call of the backbone takes beside weights, slots and text keys.

    Attributes:
        denoise: all denoise steps of a chunk, window full and junction in sight.
        context: the context pass.
        recache: the window written anew at a prompt switch; 0 where the memory has none.
        prompt: a prompt's keys, beside the keys themselves.
    """

    denoise: int
    context: int
    recache: int
    prompt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBytes:
    """What the decoder takes beside its weights.

    Attributes:
        state: what it carries from chunk to chunk.
        work: the most while a chunk becomes pictures, beside that.
    """

    state: int
    work: int


@torch.inference_mode()
def count_calls(
    config: BackboneConfig,
    policy: MemoryPolicy,
    sampler: SamplerConfig,
    geometry: Geometry,
    *,
    dtype: torch.dtype,
    backend: Backend,
) -> CallBytes:
    """Run a stream of a few layers, and count.

    Args:
        config: of the backbone.
        policy: what is remembered.
        sampler: the denoise steps.
        geometry: of the video.
        dtype: of weights, keys and values.
        backend: of the kernels.
    """
    few = replace(config, num_layers=min(COUNTED_LAYERS, config.num_layers))
    with torch.device(META):
        backbone = Backbone(few).to(dtype).requires_grad_(False)
    rollout = Rollout.of(backbone, policy, sampler, backend=backend)
    embeds = torch.zeros(1, config.text_len, config.text_dim, dtype=dtype, device=META)
    text = backbone.text_context(embeds)
    shape = chunk_shape(config, policy, geometry)
    state = rollout.start(text, shape)
    exact = torch.promote_types(dtype, torch.float32)
    clean = torch.zeros(shape, dtype=exact, device=META)

    def remember(chunks: int) -> None:
        for _ in range(chunks):
            rollout.commit(state, clean)

    # the sink; the chunk after it becomes the junction, and leaves the window, which is full then
    remember(1)
    rollout.switch(state, text)
    remember(policy.local_frames // policy.chunk_frames)
    noise = torch.zeros(len(sampler.steps), *shape, dtype=exact)
    denoise = _peak(lambda: rollout.denoise(state, noise))
    context = _peak(lambda: rollout.commit(state, clean))
    recache = _peak(lambda: rollout.switch(state, text))
    prompt = _peak(lambda: backbone.text_context(embeds)) - text_key_bytes(few, dtype)
    return CallBytes(denoise=denoise, context=context, recache=recache, prompt=prompt)


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
        live.rest()
        state = decode_pictures(decoder, latents, state)[1]
        return DecodeBytes(state=max(held, live.now), work=live.peak - held)


def count_encoding(model: VideoModel) -> int:
    """Most memory that the text encoder takes beside its weights, for the longest prompt."""
    with LiveBytes() as live:
        model.family.encode_longest(model.text)
    return live.peak


def chunk_shape(
    config: BackboneConfig, policy: MemoryPolicy, geometry: Geometry
) -> tuple[int, int, int, int, int]:
    """Of one chunk of latents, (B, c, C, h, w)."""
    return 1, policy.chunk_frames, config.in_dim, geometry.latent_height, geometry.latent_width


def text_key_bytes(config: BackboneConfig, dtype: torch.dtype) -> int:
    """A prompt's keys and values for all layers."""
    return 2 * config.num_layers * config.text_len * config.dim * dtype.itemsize


def time_bytes(config: BackboneConfig, sampler: SamplerConfig, dtype: torch.dtype) -> int:
    """The embedded timesteps, each with its projection; the context pass has one, too."""
    return (sampler.most_steps + 1) * 7 * config.dim * dtype.itemsize


def _peak(call: Callable[[], object]) -> int:
    with LiveBytes() as live:
        call()
    return live.peak
