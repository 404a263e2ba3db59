"""The parts that a stream's memory is made of, each counted or allowed for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from afstream.families.wan.text import KEPT_PROMPTS
from afstream.geometry import PATCH
from afstream.kvcache.cache import Grid, Memory
from afstream.memory_plan.calls import chunk_shape, text_key_bytes, time_bytes
from afstream.memory_plan.count import META, held_bytes
from afstream.memory_plan.outline import Outline, Setting
from afstream.memory_plan.tiny import tiny_weight_bytes
from afstream.memory_plan.units import MIB
from afstream.model.block_swap import NUM_BUFFERS, flat_size, pick_layers

Where = Literal["device", "host"]

# Nobody can count these beforehand; they are allowances, and every table says so.
CONTEXT_BYTES = 512 * MIB
WORKSPACE_BYTES = 128 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Memory of one purpose.

    Attributes:
        name: for people.
        bytes: how much.
        where: on the GPU, or in the host's memory.
        why: where the number comes from.
    """

    name: str
    bytes: int
    where: Where = "device"
    why: str


def all_parts(outline: Outline, setting: Setting) -> Iterator[Part]:
    """Every part of a stream; not all of it is there at once."""
    yield from _weights(outline, setting)
    yield from _memory(outline, setting)
    yield from _small_things(outline, setting)
    yield from _work(outline, setting)
    yield Part(name="CUDA context", bytes=CONTEXT_BYTES, why="allowance, with the kernels' code")
    yield Part(
        name="workspaces",
        bytes=WORKSPACE_BYTES,
        why="allowance for what libraries and kernels take within a call",
    )


def _weights(outline: Outline, setting: Setting) -> Iterator[Part]:
    backbone = outline.model.backbone
    travelling, places, homes = 0, 0, 0
    if setting.offload:
        layers = list(backbone.blocks)
        travelling = sum(
            held_bytes(layers[index].parameters())
            for index in pick_layers(setting.offload, len(layers))
        )
        one = flat_size(layers[0]) * backbone.dtype.itemsize
        places, homes = min(NUM_BUFFERS, setting.offload) * one, setting.offload * one
    yield Part(
        name="backbone weights",
        bytes=outline.backbone_bytes - travelling + places,
        why="all" if not homes else f"{setting.offload} layers share {NUM_BUFFERS} buffers",
    )
    if homes:
        yield Part(name="offloaded layers", bytes=homes, where="host", why="pinned")
    yield Part(
        name="text encoder weights",
        bytes=outline.text_bytes,
        where="host" if setting.text == "cpu" else "device",
        why={"device": "kept", "cpu": "on the cpu", "drop": "until prompts are encoded"}[
            setting.text
        ],
    )
    dtype = backbone.dtype
    yield Part(
        name="decoder weights",
        bytes=tiny_weight_bytes(dtype) if setting.tiny else outline.decoder_bytes,
        why="tiny VAE, by its public layout" if setting.tiny else "all, encoder half included",
    )
    yield Part(
        name="weights on their way",
        bytes=outline.transit_bytes,
        why="the largest as its file holds it, at most",
    )


def _memory(outline: Outline, setting: Setting) -> Iterator[Part]:
    policy, geometry = setting.policy, setting.geometry
    backbone = outline.model.backbone
    memory = Memory.allocate(
        policy,
        backbone.config,
        Grid(rows=geometry.latent_height // PATCH, columns=geometry.latent_width // PATCH),
        dtype=backbone.dtype,
        device=META,
        backend=setting.backend,
    )
    whole = held_bytes((memory.keys, memory.values))
    sink = policy.sink_frames // policy.chunk_frames
    junctions = policy.num_slots - policy.window_frames // policy.chunk_frames
    anchors = whole // memory.keys.shape[2] * (sink + junctions)
    yield Part(
        name="KV window",
        bytes=whole - anchors,
        why=f"{memory.keys.shape[2] - sink - junctions} slots, one of them in the making",
    )
    yield Part(
        name="KV anchors", bytes=anchors, why=f"{sink} slots of the sink, {junctions} of junctions"
    )
    if memory.view:
        yield Part(
            name="KV view",
            bytes=held_bytes(memory.view),
            why=f"{policy.num_segments} slots as torch's own attention reads them",
        )


def _small_things(outline: Outline, setting: Setting) -> Iterator[Part]:
    model, policy = outline.model, setting.policy
    config, dtype = model.backbone.config, model.backbone.dtype
    keys = text_key_bytes(config, dtype)
    yield Part(name="text keys", bytes=keys, why="of the prompt in force, all layers")
    yield Part(
        name="new text keys", bytes=keys if setting.captures else 0, why="beside them at a switch"
    )
    row = config.text_len * config.text_dim * dtype.itemsize
    # kept by the encoder and once more by the stream; a blend takes two
    kept = 2 * setting.prompts or KEPT_PROMPTS + 3
    yield Part(
        name="prompt embeddings",
        bytes=0 if setting.text == "cpu" else kept * row,
        why=f"{kept} of the longest",
    )
    exact = torch.promote_types(dtype, torch.float32).itemsize
    shape = chunk_shape(config, policy, setting.geometry)
    latents = torch.Size(shape).numel() * exact
    chunks = policy.window_frames // policy.chunk_frames
    tokens = latents // exact // config.in_dim // PATCH**2
    tables = 2 * tokens * (1 + chunks) * config.head_dim // 2 * 4
    # the chunk just made is still being decoded
    waiting = latents * (len(model.sampler.steps) if setting.captures else 0)
    yield Part(
        name="latents and tables",
        bytes=latents * (chunks + 2) + waiting + tables + time_bytes(config, model.sampler, dtype),
        why="recent chunks, captured calls' inputs, rotations, timesteps",
    )


def _work(outline: Outline, setting: Setting) -> Iterator[Part]:
    calls, decoding = outline.calls(setting), outline.decoding(setting)
    # one pair for each length of the view that comes back
    kinds = 1 + (setting.backend == "sdpa" and setting.policy.junction != "none")
    captured = kinds * (calls.denoise + calls.context) if setting.captures else 0
    yield Part(name="encoding a prompt", bytes=outline.encode_bytes, why="counted, the longest")
    yield Part(
        name="denoising",
        bytes=max(calls.denoise, calls.context),
        why="counted, at the fullest window",
    )
    yield Part(
        name="re-cache",
        bytes=max(calls.recache, calls.prompt),
        why="counted, at a prompt switch",
    )
    yield Part(
        name="captured graphs",
        bytes=captured,
        why="memory that captured calls keep for themselves; denoising works in it",
    )
    yield Part(name="decoder state", bytes=decoding.state, why="carried from chunk to chunk")
    yield Part(name="decoding", bytes=decoding.work, why="counted, beside denoising")
