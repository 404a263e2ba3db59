"""What a stage holds in memory, counted from tensors without storage: nothing is allocated.

Activations are not counted; with the layers' checkpointing they are one layer's at a time, and
one value per token and layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afstream.config import BackboneConfig
from afstream.kvcache.cache import Grid, KVCache
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone

META = "meta"
# AdamW keeps a mean and a mean square of each gradient, Muon a mean
ADAMW_STATES = 2
MUON_STATES = 1

IsMatrix = Callable[[str, Tensor], bool]


class Share(NamedTuple):
    """What takes memory, and how much."""

    what: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """How weights are stored.

    Attributes:
        trained: dtype of what learns.
        frozen: dtype of what does not, and of keys and values.
        rank: of adapters on the layers' linear maps, which then learn alone; 0 for none.
        processes: over which everything but keys and values is spread; 1 for whole copies.
    """

    trained: torch.dtype = torch.float32
    frozen: torch.dtype = torch.float32
    rank: int = 0
    processes: int = 1


def size_bytes(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> int:
    """Bytes of tensors, in their own dtype or another one."""
    return sum(
        tensor.numel() * (dtype.itemsize if dtype else tensor.dtype.itemsize) for tensor in tensors
    )


def on_meta(config: BackboneConfig) -> Backbone:
    """A backbone without storage."""
    with torch.device(META):
        return Backbone(config)


def adapter_values(backbone: Backbone, rank: int) -> int:
    """Values of adapters on every linear map of the layers."""
    maps = [module for module in backbone.blocks.modules() if isinstance(module, nn.Linear)]
    return sum(rank * (each.in_features + each.out_features) for each in maps)


def training_shares(what: str, backbone: Backbone, footing: Footing) -> list[Share]:
    """Of a backbone that learns with AdamW: weights, gradients, optimizer states."""
    weights = list(backbone.parameters())
    if footing.rank:
        learns = adapter_values(backbone, footing.rank) * footing.trained.itemsize
        held = size_bytes(weights, footing.frozen) + learns
    else:
        learns = held = size_bytes(weights, footing.trained)
    return [
        _spread(f"{what}: weights", held, footing),
        _spread(f"{what}: gradients", learns, footing),
        _spread(f"{what}: optimizer states", ADAMW_STATES * learns, footing),
    ]


def memory_shares(
    policy: MemoryPolicy, backbone: BackboneConfig, grid: Grid, rows: int, dtype: torch.dtype
) -> list[Share]:
    """Keys and values of `rows` streams, and the copy of them that a replay takes."""
    memory = KVCache.allocate(
        policy, backbone, grid, batch=rows, dtype=dtype, device=META, backend="reference"
    )
    held = size_bytes((memory.keys, memory.values))
    return [Share("keys and values", held), Share("their copy for the replay", held)]


def matching_shares(
    policy: MemoryPolicy,
    student: BackboneConfig,
    teacher: BackboneConfig,
    grid: Grid,
    rows: int,
    footing: Footing,
) -> tuple[Share, ...]:
    """Of a stage of distribution matching, in one process.

    Args:
        policy: what the student's streams remember.
        student: sizes of student and critic.
        teacher: sizes of the teacher.
        grid: tokens of a latent frame.
        rows: sequences that the process makes.
        footing: how weights are stored.
    """
    small = on_meta(student)
    shares = training_shares("student", small, footing) + training_shares("critic", small, footing)
    average = (
        adapter_values(small, footing.rank) * footing.trained.itemsize
        if footing.rank
        else size_bytes(small.state_dict().values(), footing.trained)
    )
    large = on_meta(teacher)
    shares += [
        _spread("student: moving average", average, footing),
        _spread("teacher: weights", size_bytes(large.parameters(), footing.frozen), footing),
    ]
    if footing.processes > 1:
        # the layer that computes, and the one that comes next
        layer = size_bytes(large.blocks[0].parameters(), footing.frozen)
        shares.append(Share("two gathered layers of the teacher", 2 * layer))
    return tuple(shares + memory_shares(policy, student, grid, rows, footing.frozen))


def module_shares(
    what: str, module: nn.Module, *, is_matrix: IsMatrix, averaged: bool = True
) -> tuple[Share, ...]:
    """Of a network that learns with Muon and AdamW.

    Args:
        what: its name.
        module: without storage.
        is_matrix: whether Muon, which keeps one state, takes a weight of this name.
        averaged: whether there is a moving average of it.
    """
    held = size_bytes(module.parameters())
    matrices = size_bytes(
        weight for name, weight in module.named_parameters() if is_matrix(name, weight)
    )
    states = MUON_STATES * matrices + ADAMW_STATES * (held - matrices)
    shares = [
        Share(f"{what}: weights", held),
        Share(f"{what}: gradients", held),
        Share(f"{what}: optimizer states", states),
    ]
    if averaged:
        average = size_bytes(module.state_dict().values())
        shares.append(Share(f"{what}: moving average", average))
    return tuple(shares)


def clip_bytes(count: int, shape: tuple[int, ...]) -> int:
    """Of `count` clips of latents in float16."""
    return count * prod(shape) * torch.float16.itemsize


def _spread(what: str, size: int, footing: Footing) -> Share:
    return Share(what, -(-size // footing.processes))
