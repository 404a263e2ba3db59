"""One chunk of a randomly initialised backbone, window full, junction visible."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.engine.state import RolloutState
from afstream.families.random.model import ChannelsAsColours, HashedText, random_backbone
from afstream.families.wan.family import WAN
from afstream.families.wan.model import wan_model
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import Anchors
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.meta_model import MetaModel
from afstream.model.dit import Backbone, TextContext
from afstream.spec import ModelSpec, StreamConfig
from afstream_kernels import BackendName
from gpu_stages.public_way import PublicContext
from gpu_stages.scale import CHUNK_FRAMES, Scale

POLICY = memory_policy("anchor", WAN.lengths)
VIDEO_FRAMES = CHUNK_FRAMES * WAN.format.temporal_stride
# the first full window, and the chunks after which its junction can be seen
SWITCH_CHUNK = WAN.lengths.window_chunks + 1
JUNCTION_CHUNKS = SWITCH_CHUNK + WAN.lengths.local_frames // CHUNK_FRAMES
# by then every slot has been used, so that nothing is met for the first time any more
STEADY_CHUNKS = JUNCTION_CHUNKS + 2 * POLICY.num_slots
WARM_UP_CHUNKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the chunk.

    Attributes:
        name: for people.
        backend: of the kernels.
        graphs: captured and replayed.
        compiled: layers compiled by torch.
    """

    name: str
    backend: BackendName
    graphs: bool = False
    compiled: bool = False


VARIANTS = (
    Variant(name="triton, eager", backend="triton"),
    Variant(name="triton, graph", backend="triton", graphs=True),
    Variant(name="sdpa, eager", backend="sdpa"),
    Variant(name="sdpa, graph", backend="sdpa", graphs=True),
    # last, because compiling changes the layers for good
    Variant(name="triton, compiled, graph", backend="triton", graphs=True, compiled=True),
    Variant(name="sdpa, compiled, graph", backend="sdpa", graphs=True, compiled=True),
)


@dataclass(slots=True, kw_only=True)
class ChunkTimes:
    """What one variant took.

    Attributes:
        name: of the variant.
        cold_ms: the first chunk, which loads and compiles kernels.
        warm_up_ms: the chunks after it that still captured or compiled, all together.
        chunk_ms: median of a steady chunk: all denoise steps, context pass, store.
        recache_ms: median of a whole prompt switch: text keys and re-cache.
        fps: video frames a second of the backbone alone.
        peak_bytes: most memory that tensors took.
        estimated_bytes: the same as `afstream.memory_plan` estimates it, nothing compiled.
        finite: all latents were finite.
        profile: what a steady chunk copied and waited for; see `profiled`.
    """

    name: str
    cold_ms: float
    warm_up_ms: float
    chunk_ms: float
    recache_ms: float | None
    fps: float
    peak_bytes: int | None
    finite: bool
    estimated_bytes: int | None = None
    profile: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def peak_share(self) -> float | None:
        """What was measured relative to the estimate."""
        if self.peak_bytes is None or self.estimated_bytes is None:
            return None
        return self.peak_bytes / self.estimated_bytes


@torch.inference_mode()
def time_variant(
    backbone: Backbone, scale: Scale, variant: Variant, profile: Callable[[Callable[[], Any]], Any]
) -> ChunkTimes:
    """Fill the window, let the junction come into sight, then time.

    Args:
        backbone: of the scale.
        scale: sizes.
        variant: how to run it.
        profile: given a steady chunk to run, tells what happened in it.
    """
    device = backbone.device
    if variant.compiled:
        backbone.compile_layers()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rollout = Rollout.of(
        backbone,
        POLICY,
        SamplerConfig(),
        backend=variant.backend,
        use_graphs=variant.graphs,
    )
    texts = [random_text(backbone, scale, seed) for seed in range(2)]
    state = rollout.start(texts[0], scale.chunk_shape)
    steps = len(rollout.schedule.sigmas)
    noise = torch.randn(steps, *scale.chunk_shape)
    noise = noise.pin_memory() if device.type == "cuda" else noise

    def advance() -> Tensor:
        clean = rollout.denoise(state, noise)
        rollout.commit(state, clean)
        return clean

    cold_ms = elapsed_ms(device, advance)
    for _ in range(SWITCH_CHUNK - 1):
        advance_by_context(rollout, state, scale)
    rollout.switch(state, texts[1])
    while state.frame < STEADY_CHUNKS * CHUNK_FRAMES:
        advance_by_context(rollout, state, scale)
    assert_steady(state)
    warm_up_ms = sum(elapsed_ms(device, advance) for _ in range(WARM_UP_CHUNKS))
    latents: list[Tensor] = []
    spans = [elapsed_ms(device, lambda: latents.append(advance())) for _ in range(scale.chunks)]
    found = profile(advance)

    prompts = [random_embeds(backbone, scale, seed) for seed in range(scale.chunks)]
    switches = [
        elapsed_ms(device, lambda e=embeds: rollout.switch(state, backbone.text_context(e)))
        for embeds in prompts
    ]
    chunk_ms = statistics.median(spans)
    return ChunkTimes(
        name=variant.name,
        cold_ms=cold_ms,
        warm_up_ms=warm_up_ms,
        chunk_ms=chunk_ms,
        recache_ms=statistics.median(switches),
        fps=1000 * VIDEO_FRAMES / chunk_ms,
        peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        finite=all(bool(chunk.isfinite().all()) for chunk in latents),
        estimated_bytes=estimated_bytes(scale, variant),
        profile=found,
    )


def estimated_bytes(scale: Scale, variant: Variant) -> int:
    """Most memory that tensors will take in this stage, which decodes nothing."""
    backbone = random_backbone(scale.backbone, device="meta", dtype=scale.dtype)
    stand_ins = HashedText(scale.backbone, "meta"), ChannelsAsColours()
    model = MetaModel(wan_model("chunk", WAN, backbone, *stand_ins, {}), ModelSpec())
    size = scale.geometry.width_px, scale.geometry.height_px
    config = StreamConfig(size=size, memory=POLICY, backend=variant.backend, graphs=variant.graphs)
    found = estimate(model, config)
    absent = ("decoding", "decoder state", "prompt embeddings")
    # two prompts' keys are kept here, one of them in force unless a graph has its own
    kept = (1 + variant.graphs) * found.bytes_of("text keys")
    return found.tensor_bytes - sum(map(found.bytes_of, absent)) + kept


@torch.inference_mode()
def time_public_way(backbone: Backbone, scale: Scale) -> ChunkTimes:
    """The same chunk with clones, concatenation and complex128; no store, no re-cache."""
    device = backbone.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rollout = Rollout.of(backbone, POLICY, SamplerConfig())
    text = random_text(backbone, scale, 0)
    frame = STEADY_CHUNKS * CHUNK_FRAMES
    seen = POLICY.visible(Anchors(junction=SWITCH_CHUNK * CHUNK_FRAMES), frame, CHUNK_FRAMES)
    cached = [chunk.position for chunk in seen if chunk.frame != frame]
    window = PublicContext(
        (*cached, POLICY.query_position(frame, CHUNK_FRAMES)),
        grid=(CHUNK_FRAMES, scale.geometry.rows, scale.geometry.columns),
        num_layers=scale.backbone.num_layers,
        num_heads=scale.backbone.num_heads,
        head_dim=scale.backbone.head_dim,
        dtype=scale.dtype,
        device=device,
    )
    latents = torch.randn(scale.chunk_shape, device=device)

    def passes() -> None:
        for time_context in rollout.times:
            backbone(latents, time_context, text, window)

    cold_ms = elapsed_ms(device, passes)
    chunk_ms = statistics.median(elapsed_ms(device, passes) for _ in range(max(scale.chunks, 2)))
    return ChunkTimes(
        name="public way, eager",
        cold_ms=cold_ms,
        warm_up_ms=0.0,
        chunk_ms=chunk_ms,
        recache_ms=None,
        fps=1000 * VIDEO_FRAMES / chunk_ms,
        peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        finite=True,
    )


def random_embeds(backbone: Backbone, scale: Scale, seed: int) -> Tensor:
    """Prompt embeddings [1, text_len, text_dim]."""
    generator = torch.Generator().manual_seed(seed)
    config = scale.backbone
    embeds = torch.randn(1, config.text_len, config.text_dim, generator=generator)
    return embeds.to(backbone.device, backbone.dtype)


def random_text(backbone: Backbone, scale: Scale, seed: int) -> TextContext:
    """A prompt's keys and values."""
    return backbone.text_context(random_embeds(backbone, scale, seed))


def advance_by_context(rollout: Rollout, state: RolloutState, scale: Scale) -> None:
    """Put a random finished chunk into the memory."""
    rollout.commit(state, torch.randn(scale.chunk_shape, device=rollout.model.device))


def assert_steady(state: RolloutState) -> None:
    """Every chunk that a chunk can see is there: sink, junction, local window."""
    seen = POLICY.visible(state.cache.anchors, state.frame, CHUNK_FRAMES)
    if len(seen) != POLICY.num_visible:
        raise RuntimeError(f"{len(seen)} chunks are visible, {POLICY.num_visible} expected")


def elapsed_ms(device: torch.device, work: Callable[[], object]) -> float:
    """Wall-clock milliseconds until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def time_all(
    scale: Scale, device: torch.device, profile: Callable[[Callable[[], Any]], Any]
) -> Iterator[ChunkTimes | tuple[str, Exception]]:
    """The public way, then every variant; what fails is told and does not end the rest."""
    backbone = random_backbone(scale.backbone, device=device, dtype=scale.dtype)
    ways: list[tuple[str, Callable[[], ChunkTimes]]] = [
        ("public way, eager", lambda: time_public_way(backbone, scale))
    ]
    ways += [
        (variant.name, lambda v=variant: time_variant(backbone, scale, v, profile))
        for variant in VARIANTS
        if device.type == "cuda" or not (variant.graphs or variant.compiled)
    ]
    for name, way in ways:
        try:
            yield way()
        except Exception as error:  # noqa: BLE001  the other variants can still be timed
            yield name, error
