"""Several processes of one run: torchrun's group, FSDP2, and values that all of them agree on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from afstream.errors import AfstreamError, ConfigError
from afstream.model.dit import Backbone

T = TypeVar("T")

CPU = torch.device("cpu")

# the others wait while one of them encodes all prompts
PATIENCE = timedelta(hours=2)

# what is called besides forward
LAYER_METHODS = ("write_kv", "text_keys")
BACKBONE_METHODS = ("write_kv", "text_context", "time_context")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes that share a run, seen from one of them.

    `rank` is the number of this process, of `count`; it computes on `device`.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes logs and files."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """Rows of a global batch that this process computes.

        Raises:
            ConfigError: it cannot be divided evenly.
        """
        if batch % self.count:
            raise ConfigError(
                f"the batch is {batch} and there are {self.count} processes; give a multiple of"
                f" {self.count}"
            )
        share = batch // self.count
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Means over all processes, each of which must give the same names."""
        if self.count == 1:
            return dict(metrics)
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return dict(zip(metrics, (values / self.count).tolist(), strict=True))

    def agree(self, value: T) -> T:
        """The first process's value, in all processes."""
        if self.count == 1:
            return value
        held: list[T] = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def each(self, value: T) -> list[T]:
        """The values of all processes, in all of them."""
        if self.count == 1:
            return [value]
        held: list[Any] = [None] * self.count
        dist.all_gather_object(held, value)
        return held

    def refuse(self, fault: str, error: type[AfstreamError]) -> None:
        """Raise the first fault that any process has, in all of them; "" is none."""
        if told := next(filter(None, self.each(fault)), ""):
            raise error(told)

    def wait(self) -> None:
        """Return when all processes have called this."""
        # a barrier needs the GPU's number, in another way for each backend
        self.mean({"here": 0.0})


ALONE = Processes()


@contextmanager
def joined(device: str | None = None) -> Generator[Processes, None, None]:
    """Join the processes that torchrun started; without torchrun, a group of one.

    Without a device (cpu or cuda), on GPUs where there are any.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rank, count, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU, there are"
                f" {torch.cuda.device_count()}; start as many processes"
            )
        torch.cuda.set_device(local)
    # gloo too, for what lies in host memory
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    started = "RANK" in os.environ
    dist.init_process_group(
        backend,
        store=None if started else dist.HashStore(),  # pyright: ignore[reportPrivateImportUsage]
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    where = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    try:
        yield Processes(rank=rank, count=count, device=where)
    finally:
        dist.destroy_process_group()


def shard(model: Backbone, processes: Processes, *, dtype: torch.dtype | None = None) -> None:
    """Spread a model's weights over all processes; each layer is gathered while it computes.

    The model is on this process's device and is changed in place. Weights are cast to `dtype` when
    they are gathered, and then gradients summed over processes, and weights updated, in float32;
    None leaves all in the weights' own.
    """
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    policy = MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=None if dtype is None else torch.float32,
        # latents and timesteps lose too much in bfloat16; the backbone casts what it may
        cast_forward_inputs=False,
    )
    layers = [(layer, LAYER_METHODS) for layer in model.blocks]
    for part, methods in (*layers, (model, BACKBONE_METHODS)):
        # the outermost too, so that between calls the parameters are those that are trained
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        for method in methods:
            register_fsdp_forward_method(part, method)
    model.compute_dtype = dtype
    # contexts are views, and nobody writes into them
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be spread over processes."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of whole weights in host memory; all processes must call it."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value)
        .detach()
        .to("cpu", copy=True)
        for name, value in weights.items()
    }
