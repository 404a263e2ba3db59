"""What a training stage holds in one process, counted on the meta device.

Activations are not counted, but for the layers' inputs where layers are computed again in the
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.count import META, held_bytes
from afstream.memory_plan.report import Part
from afstream.model.dit import Backbone

# AdamW keeps a mean and a mean square of each gradient, Muon a mean
ADAMW_STATES = 2
MUON_STATES = 1

IsMatrix = Callable[[str, Tensor], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What one process of a training stage holds, beside activations.

    Attributes:
        processes: among which weights and sequences are divided.
        alone_bytes: what the stage takes where it is the only process.
    """

    parts: tuple[Part, ...]
    processes: int = 1
    alone_bytes: int

    @classmethod
    def of(cls, count: Callable[[int], Iterable[Part]], *, processes: int = 1) -> TrainingReport:
        """Count a stage by the parts of one of so many processes; also for one process alone."""
        alone = sum(part.bytes for part in count(1))
        return cls(parts=tuple(count(processes)), processes=processes, alone_bytes=alone)

    @property
    def total_bytes(self) -> int:
        """Bytes of all parts in one process."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How weights are stored.

    Attributes:
        trained: dtype of weights that learn.
        frozen: dtype of those that do not, and of keys and values.
        rank: of adapters on the layers' linear maps, which then learn alone; 0 for none.
        shards: processes over which weights, gradients and optimizer states are divided.
    """

    trained: torch.dtype = torch.float32
    frozen: torch.dtype = torch.float32
    rank: int = 0
    shards: int = 1

    def part(self, name: str, size: int) -> Part:
        """One process's share of a number of bytes."""
        return Part(name=name, bytes=-(-size // self.shards))


WHOLE = Storage()


def meta_backbone(config: BackboneConfig, dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone on the meta device."""
    with torch.device(META):
        return Backbone(config).to(dtype)


def adapter_bytes(backbone: Backbone, storage: Storage) -> int:
    """Bytes of adapters on every linear map of the layers; 0 without adapters."""
    maps = [module for module in backbone.blocks.modules() if isinstance(module, nn.Linear)]
    values = sum(storage.rank * (each.in_features + each.out_features) for each in maps)
    return values * storage.trained.itemsize


def learner_parts(
    name: str,
    module: nn.Module,
    *,
    storage: Storage = WHOLE,
    adapters: int = 0,
    is_matrix: IsMatrix | None = None,
    averaged: bool = True,
) -> Iterator[Part]:
    """A network that learns: weights, gradients, optimizer states, moving average.

    The module is on the meta device, in the dtype in which it is stored. Of adapters the bytes are
    given; they then learn alone. Muon takes the weights that `is_matrix` names, AdamW the others.
    """
    held = held_bytes(module.parameters())
    learns = adapters or held
    matrices = held_bytes(
        weight
        for key, weight in module.named_parameters()
        if is_matrix is not None and is_matrix(key, weight)
    )
    states = ADAMW_STATES * (learns - matrices) + MUON_STATES * matrices
    yield storage.part(f"{name}: weights", held + adapters)
    yield storage.part(f"{name}: gradients", learns)
    yield storage.part(f"{name}: optimizer states", states)
    if averaged:
        yield storage.part(f"{name}: moving average", learns)


def dmd_parts(
    policy: MemoryPolicy,
    student: BackboneConfig,
    teacher: BackboneConfig,
    geometry: Geometry,
    *,
    rows: int,
    storage: Storage = WHOLE,
    input_frames: int = 0,
) -> Iterator[Part]:
    """A stage of distribution matching (DMD) in one process, which makes so many rows (sequences).

    The critic has the student's sizes. `input_frames` are latent frames of one window where layers
    keep only their inputs for the backward pass; 0 where they keep everything, which is not
    counted.
    """
    small = meta_backbone(student, storage.frozen if storage.rank else storage.trained)
    adapters = adapter_bytes(small, storage)
    yield from learner_parts("student", small, storage=storage, adapters=adapters)
    yield from learner_parts("critic", small, storage=storage, adapters=adapters, averaged=False)
    large = meta_backbone(teacher, storage.frozen)
    yield storage.part("teacher: weights", held_bytes(large.parameters()))
    if storage.shards > 1:
        # the layer that computes, and the one that comes next
        layer = held_bytes(large.blocks[0].parameters())
        yield Part(name="two gathered layers of the teacher", bytes=2 * layer)
    rollout = Rollout.of(meta_backbone(student, storage.frozen), policy, SamplerConfig())
    size = (student.in_dim, geometry.latent_height, geometry.latent_width)
    state = rollout.start((), (rows, policy.lengths.chunk_frames, *size))
    for name, cache in (
        ("keys and values", state.cache),
        ("their copy for the replay", state.fork().cache),
    ):
        yield Part(name=name, bytes=held_bytes((cache.pool.keys, cache.pool.values)))
    if input_frames:
        tokens = input_frames * geometry.rows * geometry.columns
        inputs = student.num_layers * tokens * student.dim * storage.frozen.itemsize
        yield Part(name="layers' inputs, one sequence at a time", bytes=inputs)


def clip_bytes(count: int, shape: tuple[int, ...]) -> int:
    """Bytes of `count` clips of latents in float16."""
    return count * prod(shape) * torch.float16.itemsize
