"""What a stream takes on a GPU: every part of it, counted or allowed for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from afstream.attention import ATTENTION, choose_attention
from afstream.families.presets import memory_of
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.count import META, held_bytes
from afstream.memory_plan.meta_model import CallBytes, MetaModel
from afstream.memory_plan.report import (
    CONTEXT_BYTES,
    PASSING_SLACK,
    STAYING_SLACK,
    WORKSPACE_BYTES,
    MemoryReport,
    Part,
    Phase,
    PhaseName,
)
from afstream.model.block_swap import NUM_BUFFERS, flat_size, pick_layers
from afstream.spec import TINY_VAE, StreamConfig

RUNNING: tuple[PhaseName, ...] = ("stream", "switch")
WEIGHTS: tuple[PhaseName, ...] = ("load", *RUNNING)
TEXT_WHY = {"device": "kept", "cpu": "on the cpu", "drop": "until prompts are encoded"}
SLACK_WHY = f"allowance: {STAYING_SLACK:.0%} of what stays, {PASSING_SLACK:.0%} of what passes"


def estimate(model: MetaModel, config: StreamConfig) -> MemoryReport:
    """Count what a stream takes on a GPU; the model is the config's.

    Raises:
        ConfigError: a setting is unknown, or there are fewer layers than are to be offloaded.
        CannotCountError: transformers cannot run on the meta device.
    """
    geometry = model.geometry(config.size)
    policy = memory_of(config, model.model.family.lengths)
    dtype = model.backbone.dtype
    # a GPU that is only supposed can run every backend
    backend = choose_attention(config.backend, device=META, dtype=dtype)
    calls = model.calls(geometry, policy, backend)
    pairs = ATTENTION[backend.name].num_graphs(policy.num_visible, policy.lengths.window_chunks)
    # calls are captured as `Rollout` does it
    captured = config.graphs and not config.model.offload and pairs > 0
    graphs = pairs * (calls.denoise + calls.context) if captured else 0
    denoising = max(calls.denoise, calls.context)
    # a tiny VAE that the model was opened with is there already
    proposed = config.model.vae == TINY_VAE and model.spec.vae != TINY_VAE
    decoder = (proposed and model.with_tiny_vae) or model
    proposed = decoder is not model
    decoding = decoder.decoding(geometry, policy)
    encodes = model.takes("place for the text encoder") and config.model.text != "cpu"
    parts = (
        *_weights(model, config, encodes=encodes),
        Part(
            "decoder weights",
            decoder.decoder_bytes,
            "tiny VAE, as published" if proposed else "all, encoder half included",
            WEIGHTS,
        ),
        *_cache(calls, policy),
        *_prompts(model, config, calls, captured=captured),
        _latents(model, geometry, policy, calls, captured=captured),
        Part("denoising", denoising, "counted, at the fullest window", ("stream",), passes=True),
        Part(
            "re-cache",
            max(calls.recache, calls.prompt),
            "counted, at a prompt switch",
            ("switch",),
            passes=True,
        ),
        Part("captured graphs", graphs, "kept by captured calls; denoising works in it"),
        Part("decoder state", decoding.state, "carried from chunk to chunk", RUNNING),
        Part("decoding", decoding.work, "counted, beside denoising", RUNNING, passes=True),
    )
    # captured calls work in memory of their own, which stays theirs
    pools = {"stream": max(graphs - denoising, 0), "switch": graphs}
    names = ("encode", *WEIGHTS) if encodes else WEIGHTS
    phases = tuple(Phase.of(name, parts, pools.get(name, 0)) for name in names)
    allowances = (
        Part("CUDA context", CONTEXT_BYTES, "allowance, with the kernels' code"),
        Part("workspaces", WORKSPACE_BYTES, "allowance for memory that libraries take in a call"),
        Part("allocator slack", max(phases, key=lambda phase: phase.held).slack, SLACK_WHY),
    )
    return MemoryReport(
        model=model.name,
        config=config,
        geometry=geometry,
        parts=(*parts, *allowances),
        phases=phases,
    )


def _weights(model: MetaModel, config: StreamConfig, *, encodes: bool) -> Iterator[Part]:
    layers, offload, text = model.backbone.blocks, config.model.offload, config.model.text
    swapped = [layers[at] for at in pick_layers(offload, len(layers))]
    away = held_bytes(weight for layer in swapped for weight in layer.parameters())
    one = flat_size(swapped[0]) * model.backbone.dtype.itemsize if swapped else 0
    why = f"{offload} layers share {NUM_BUFFERS} buffers" if offload else "all"
    size = model.backbone_bytes - away + min(NUM_BUFFERS, offload) * one
    yield Part("backbone weights", size, why, WEIGHTS)
    if offload:
        yield Part("offloaded layers", offload * one, "pinned", where="host")
    resident = WEIGHTS if text in (None, "device") else ()
    yield Part(
        "text encoder weights",
        model.text_bytes,
        TEXT_WHY[text or "device"],
        ("encode", *resident) if encodes else resident,
        where="host" if text == "cpu" else "device",
    )
    why = "the largest as its file holds it, at most"
    yield Part("weights on their way", model.transit_bytes, why, ("load",), passes=True)


def _cache(calls: CallBytes, policy: MemoryPolicy) -> Iterator[Part]:
    sink = policy.lengths.sink_frames // policy.lengths.chunk_frames
    junctions = policy.num_slots - policy.lengths.window_chunks
    anchors = calls.slots // calls.num_slots * (sink + junctions)
    why = f"{calls.num_slots - sink - junctions} slots, one of them in the making"
    yield Part("KV window", calls.slots - anchors, why, RUNNING)
    why = f"{sink} slots of the sink, {junctions} of junctions"
    yield Part("KV anchors", anchors, why, RUNNING)
    if calls.gathered:
        why = f"{policy.num_visible} slots as torch's own attention reads them"
        yield Part("gathered KV", calls.gathered, why, RUNNING)


def _prompts(
    model: MetaModel, config: StreamConfig, calls: CallBytes, *, captured: bool
) -> Iterator[Part]:
    backbone, text = model.backbone, config.model.text
    yield Part("text keys", calls.text, "of the prompt in force, all layers", RUNNING)
    new = calls.text if captured else 0
    yield Part("new text keys", new, "beside them at a switch", ("switch",), passes=True)
    # kept by the encoder and once more by the stream; a blend takes two
    known = len(set(config.prompts))
    kept = 2 * known or model.model.family.kept_prompts + 3
    row = backbone.config.text_len * backbone.config.text_dim * backbone.dtype.itemsize
    size = 0 if text == "cpu" else kept * row
    yield Part("prompt embeddings", size, f"{kept} of the longest", ("encode", *RUNNING))
    # a cue may be encoded at any time, a known prompt was encoded before
    live = () if known or text not in (None, "device") else RUNNING
    why = "counted, the longest"
    yield Part("encoding a prompt", model.encode_bytes, why, ("encode", *live), passes=True)


def _latents(
    model: MetaModel, geometry: Geometry, policy: MemoryPolicy, calls: CallBytes, *, captured: bool
) -> Part:
    one = torch.Size(model.chunk_shape(policy, geometry)).numel() * model.latent_dtype.itemsize
    chunks = policy.lengths.window_chunks
    # captured calls read all steps' noise from a place of their own
    noise = one * model.model.sampler.most_steps if captured else 0
    tokens = policy.lengths.chunk_frames * geometry.rows * geometry.columns
    pairs = model.backbone.config.head_dim // 2
    tables = 2 * tokens * (1 + chunks) * pairs * torch.float32.itemsize
    # the chunk just made is still being decoded
    size = one * (chunks + 2) + noise + tables + calls.times
    why = "recent chunks, captured calls' inputs, rotations, timesteps"
    return Part("latents and tables", size, why, RUNNING)
