"""The memory of one stream, part by part, and the most of it that is needed at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch

from afstream.budget.calls import (
    CallBytes,
    DecodeBytes,
    chunk_shape,
    count_calls,
    count_decoding,
    count_encoding,
    text_key_bytes,
    time_bytes,
)
from afstream.budget.count import META, held_bytes, weights_of
from afstream.budget.tiny import tiny_decoding, tiny_weight_bytes
from afstream.budget.units import MIB
from afstream.config import MemoryPolicy
from afstream.geometry import PATCH, Geometry
from afstream.memory import Grid, Memory
from afstream.model.bundle import VideoModel
from afstream.model.offload import PLACES, room, spread
from afstream.models import open_model
from afstream.spec import ModelSpec, TextPlace
from afstream.wan.text import KEPT_PROMPTS, WanText
from afstream_kernels import Backend

Where = Literal["device", "host"]

# Nobody can count these beforehand; they are allowances, and every table says so.
CONTEXT_BYTES = 512 * MIB
WORKSPACE_BYTES = 128 * MIB
# blocks are rounded up, and holes between them stay empty; most where tensors come and go
SLACK_STAYING, SLACK_PASSING = 0.01, 0.1
# what files hold at most a value
FILE_BYTES = 4


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Parts that lie on the GPU at one time.

    Attributes:
        name: what happens then.
        tensors: bytes of tensors that are alive.
        slack: an allowance for what torch cannot use between them.
        held: bytes that are taken, with what torch and the driver keep beside them.
    """

    name: str
    tensors: int
    slack: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a stream will take.

    Attributes:
        parts: what is counted, and the allowances; not all of it is there at once.
        moments: encoding prompts, loading, streaming, a prompt switch.
    """

    parts: tuple[Part, ...]
    moments: tuple[Moment, ...]

    @property
    def peak_bytes(self) -> int:
        """Memory that the GPU must have free before anything is loaded."""
        return max(moment.held for moment in self.moments)

    @property
    def tensor_bytes(self) -> int:
        """Most memory of live tensors: what `torch.cuda.max_memory_allocated` would say."""
        return max(moment.tensors for moment in self.moments)

    @property
    def host_bytes(self) -> int:
        """Weights in the host's memory."""
        return sum(part.bytes for part in self.parts if part.where == "host")

    def bytes_of(self, name: str) -> int:
        """Of the part of a name; 0 if there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "peak_bytes": self.peak_bytes,
            "tensor_bytes": self.tensor_bytes,
            "host_bytes": self.host_bytes,
            "parts": [asdict(part) for part in self.parts],
            "moments": [asdict(moment) for moment in self.moments],
        }


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

    Attributes:
        model: see above.
        spec: see above.
    """

    def __init__(self, model: VideoModel, spec: ModelSpec) -> None:
        self.model = model
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
        return isinstance(self.model.text, WanText)

    @cached_property
    def transit_bytes(self) -> int:
        """Most that is on the way when a Wan folder's backbone is brought to the device."""
        if not self.is_folder:
            return 0
        largest = max(weight.numel() for weight in self.model.backbone.parameters())
        # with a LoRA, the weight as its file holds it, in float32, and the sum
        return FILE_BYTES * largest * (3 if self.spec.loras else 1)

    @cached_property
    def backbone_bytes(self) -> int:
        """Of all weights of the backbone."""
        return held_bytes(self.model.backbone.parameters())

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
        """What encoding a prompt takes; the other models' encoders take next to nothing."""
        return count_encoding(self.model.text) if isinstance(self.model.text, WanText) else 0

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


def estimate(outline: Outline, setting: Setting) -> Estimate:
    """What a stream takes on a GPU.

    Args:
        outline: of the model.
        setting: how it is run.

    Raises:
        ConfigError: there are fewer layers than are to be offloaded.
    """
    parts = {part.name: part for part in _parts(outline, setting)}

    def moment(name: str, tensors: tuple[str, ...], pools: int) -> Moment:
        live = sum(parts[part].bytes for part in tensors)
        passing = sum(parts[part].bytes for part in tensors if part in PASSING)
        slack = int(SLACK_STAYING * (live - passing) + SLACK_PASSING * passing)
        allowed = parts["CUDA context"].bytes + parts["workspaces"].bytes + slack
        return Moment(name=name, tensors=live, slack=slack, held=live + pools + allowed)

    on_device = tuple(name for name, part in parts.items() if part.where == "device")
    weights = tuple(name for name in on_device if name.endswith(" weights"))
    resident = tuple(name for name in on_device if name not in PASSING)
    if setting.text == "drop":
        resident = tuple(name for name in resident if name != "text encoder weights")
    loading = tuple(name for name in weights if name in resident)
    calls, graphs = outline.calls(setting), parts["captured graphs"].bytes
    # a cue may be encoded at any time, a known prompt was encoded before
    encoding = () if setting.prompts or setting.text != "device" else ("encoding a prompt",)
    text = ("text encoder weights", "encoding a prompt", "prompt embeddings")
    # captured calls work in memory of their own, which stays theirs
    during = max(calls.denoise, calls.context)
    stream = (*resident, *encoding, "denoising", "decoding")
    switch = (*resident, *encoding, "re-cache", "new text keys", "decoding")
    moments = [
        moment("load", (*loading, "weights on their way"), 0),
        moment("stream", stream, max(graphs - during, 0)),
        moment("switch", switch, graphs),
    ]
    if outline.is_folder and setting.text != "cpu":
        moments.insert(0, moment("encode", text, 0))
    slack = Part(
        name="allocator slack",
        bytes=max(moments, key=lambda one: one.held).slack,
        why=f"allowance: {SLACK_STAYING:.0%} of what stays, {SLACK_PASSING:.0%} of what passes",
    )
    return Estimate(parts=(*parts.values(), slack), moments=tuple(moments))


# what comes and goes, and what is no tensor
PASSING = (
    "weights on their way",
    "encoding a prompt",
    "denoising",
    "re-cache",
    "new text keys",
    "decoding",
    "captured graphs",
    "CUDA context",
    "workspaces",
)


def _parts(outline: Outline, setting: Setting) -> Iterator[Part]:
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
            held_bytes(layers[index].parameters()) for index in spread(setting.offload, len(layers))
        )
        one = room(layers[0]) * backbone.dtype.itemsize
        places, homes = min(PLACES, setting.offload) * one, setting.offload * one
    yield Part(
        name="backbone weights",
        bytes=outline.backbone_bytes - travelling + places,
        why="all" if not homes else f"{setting.offload} layers share {PLACES} places",
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
