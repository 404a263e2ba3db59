"""What a stream takes on a GPU: every part of it, counted or allowed for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from afstream.attention import ATTENTION
from afstream.errors import ConfigError
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.count import META, held_bytes
from afstream.memory_plan.meta_model import MetaModel
from afstream.memory_plan.report import (
    CONTEXT_BYTES,
    SLACK_WHY,
    WORKSPACE_BYTES,
    MemoryReport,
    Part,
    Phase,
    PhaseName,
)
from afstream.model.block_swap import NUM_BUFFERS, flat_size, pick_layers
from afstream.spec import TINY_VAE, StreamConfig
from afstream_kernels import Backend, choose_backend

RUNNING: tuple[PhaseName, ...] = ("stream", "switch")
WEIGHTS: tuple[PhaseName, ...] = ("load", *RUNNING)


def estimate(model: MetaModel, config: StreamConfig, policy: MemoryPolicy) -> MemoryReport:
    """Count what a stream takes on a GPU.

    Args:
        model: on the meta device.
        config: how it is run.
        policy: what `config` makes the stream remember.

    Raises:
        ConfigError: the backend is unknown, or there are fewer layers than are to be offloaded.
        CannotCountError: transformers or diffusers cannot run on the meta device.
    """
    counted = _Counted(model, config, policy)
    parts = (
        *counted.weights(),
        *counted.cache(),
        *counted.prompts(),
        *counted.latents(),
        *counted.work(),
    )
    phases = tuple(
        Phase.of(name, parts, pools=counted.pools.get(name, 0))
        for name in (("encode", *WEIGHTS) if counted.encodes else WEIGHTS)
    )
    slack = max(phases, key=lambda phase: phase.held).slack
    allowances = (
        Part(name="CUDA context", bytes=CONTEXT_BYTES, why="allowance, with the kernels' code"),
        Part(name="workspaces", bytes=WORKSPACE_BYTES, why="allowance for libraries and kernels"),
        Part(name="allocator slack", bytes=slack, why=SLACK_WHY),
    )
    return MemoryReport(
        model=model.name,
        config=config,
        geometry=counted.geometry,
        parts=(*parts, *allowances),
        phases=phases,
    )


def gpu_backend(name: str | None, dtype: torch.dtype, device: torch.device | str = META) -> Backend:
    """The backend that runs on a GPU; for a hypothetical GPU (meta) every one is allowed.

    Raises:
        ConfigError: the backend is unknown, or cannot run there.
    """
    try:
        return choose_backend(name, device=device, dtype=dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error


class _Counted:
    """The parts of one estimate; see `estimate`."""

    def __init__(self, model: MetaModel, config: StreamConfig, policy: MemoryPolicy) -> None:
        self.model, self.config, self.policy = model, config, policy
        self.backbone = model.backbone
        self.geometry = model.geometry(config.size)
        self.text = config.model.text or "device"
        self.encodes = model.is_folder and self.text != "cpu"
        # a tiny VAE that the model was opened with is there already
        tiny = config.model.vae == TINY_VAE and model.spec.vae != TINY_VAE
        self.decoder = (tiny and model.with_tiny_vae) or model
        self.tiny = self.decoder is not model
        backend = gpu_backend(config.backend, self.backbone.dtype)
        self.scene = model.scene(self.geometry, policy, backend)
        self.calls = model.calls(self.geometry, policy, backend)
        self.chunks = policy.lengths.window_chunks
        self.denoising = max(self.calls.denoise, self.calls.context)
        attention = ATTENTION[backend.name]
        # captured calls; see `Rollout`
        pairs = attention.num_graphs(policy.num_visible, self.chunks) if config.graphs else 0
        self.captured = pairs > 0 and not config.model.offload
        self.graphs = pairs * (self.calls.denoise + self.calls.context) if self.captured else 0
        # captured calls work in memory of their own, which stays theirs
        self.pools = {"stream": max(self.graphs - self.denoising, 0), "switch": self.graphs}

    def weights(self) -> Iterator[Part]:
        """Weights of backbone, text encoder and decoder."""
        model, offload = self.model, self.config.model.offload
        layers = list(self.backbone.blocks)
        away = sum(held_bytes(layers[at].parameters()) for at in pick_layers(offload, len(layers)))
        one = flat_size(layers[0]) * self.backbone.dtype.itemsize
        places = min(NUM_BUFFERS, offload) * one
        yield Part(
            name="backbone weights",
            bytes=model.backbone_bytes - away + places,
            why=f"{offload} layers share {NUM_BUFFERS} buffers" if offload else "all",
            phases=WEIGHTS,
        )
        if offload:
            yield Part(name="offloaded layers", bytes=offload * one, where="host", why="pinned")
        resident = WEIGHTS if self.text == "device" else ()
        yield Part(
            name="text encoder weights",
            bytes=model.text_bytes,
            where="host" if self.text == "cpu" else "device",
            why={"device": "kept", "cpu": "on the cpu", "drop": "until prompts are encoded"}[
                self.text
            ],
            phases=("encode", *resident) if self.encodes else resident,
        )
        yield Part(
            name="decoder weights",
            bytes=self.decoder.decoder_bytes,
            why="tiny VAE, as published" if self.tiny else "all, encoder half included",
            phases=WEIGHTS,
        )
        yield Part(
            name="weights on their way",
            bytes=model.transit_bytes,
            why="the largest as its file holds it, at most",
            phases=("load",),
            passes=True,
        )

    def cache(self) -> Iterator[Part]:
        """Slots of the KV cache."""
        policy, scene = self.policy, self.scene
        sink = policy.lengths.sink_frames // policy.lengths.chunk_frames
        junctions = policy.num_slots - self.chunks
        anchors = scene.slots // scene.num_slots * (sink + junctions)
        yield Part(
            name="KV window",
            bytes=scene.slots - anchors,
            why=f"{scene.num_slots - sink - junctions} slots, one of them in the making",
            phases=RUNNING,
        )
        yield Part(
            name="KV anchors",
            bytes=anchors,
            why=f"{sink} slots of the sink, {junctions} of junctions",
            phases=RUNNING,
        )
        if scene.gathered:
            yield Part(
                name="gathered KV",
                bytes=scene.gathered,
                why=f"{policy.num_visible} slots as torch's own attention reads them",
                phases=RUNNING,
            )

    def prompts(self) -> Iterator[Part]:
        """Keys and embeddings of prompts."""
        config = self.backbone.config
        keys = self.scene.text
        yield Part(
            name="text keys",
            bytes=keys,
            why="of the prompt in force, all layers",
            phases=RUNNING,
        )
        yield Part(
            name="new text keys",
            bytes=keys if self.captured else 0,
            why="beside them at a switch",
            phases=("switch",),
            passes=True,
        )
        # kept by the encoder and once more by the stream; a blend takes two
        known = len(set(self.config.prompts))
        kept = 2 * known or self.model.model.family.kept_prompts + 3
        row = config.text_len * config.text_dim * self.backbone.dtype.itemsize
        yield Part(
            name="prompt embeddings",
            bytes=0 if self.text == "cpu" else kept * row,
            why=f"{kept} of the longest",
            phases=("encode", *RUNNING),
        )
        # a cue may be encoded at any time, a known prompt was encoded before
        encoding = () if known or self.text != "device" else RUNNING
        yield Part(
            name="encoding a prompt",
            bytes=self.model.encode_bytes,
            why="counted, the longest",
            phases=("encode", *encoding),
            passes=True,
        )

    def latents(self) -> Iterator[Part]:
        """Latents, rotation tables and timesteps, which are small."""
        policy, config = self.policy, self.backbone.config
        shape = torch.Size(self.model.chunk_shape(policy, self.geometry))
        latents = shape.numel() * self.model.latent_dtype.itemsize
        tokens = policy.lengths.chunk_frames * self.geometry.rows * self.geometry.columns
        tables = 2 * tokens * (1 + self.chunks) * config.head_dim // 2 * torch.float32.itemsize
        # captured calls read all steps' noise from a place of their own
        waiting = latents * (len(self.model.model.sampler.steps) if self.captured else 0)
        yield Part(
            name="latents and tables",
            # the chunk just made is still being decoded
            bytes=latents * (self.chunks + 2) + waiting + tables + self.scene.times,
            why="recent chunks, captured calls' inputs, rotations, timesteps",
            phases=RUNNING,
        )

    def work(self) -> Iterator[Part]:
        """What calls take while they run."""
        decoding = self.decoder.decoding(self.geometry, self.policy)
        yield Part(
            name="denoising",
            bytes=self.denoising,
            why="counted, at the fullest window",
            phases=("stream",),
            passes=True,
        )
        yield Part(
            name="re-cache",
            bytes=max(self.calls.recache, self.calls.prompt),
            why="counted, at a prompt switch",
            phases=("switch",),
            passes=True,
        )
        yield Part(
            name="captured graphs",
            bytes=self.graphs,
            why="memory that captured calls keep for themselves; denoising works in it",
        )
        yield Part(
            name="decoder state",
            bytes=decoding.state,
            why="carried from chunk to chunk",
            phases=RUNNING,
        )
        yield Part(
            name="decoding",
            bytes=decoding.work,
            why="counted, beside denoising",
            phases=RUNNING,
            passes=True,
        )
