"""Before a model is loaded: where its text encoder goes, and whether it fits at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from afstream.errors import ConfigError
from afstream.families.opening import DTYPES, dtype_name, model_device
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.estimate import Estimate, estimate
from afstream.memory_plan.outline import Outline, Setting
from afstream.memory_plan.parts import CONTEXT_BYTES
from afstream.memory_plan.plan import plan, refusal, text_places
from afstream.spec import ModelSpec
from afstream_kernels import Backend, choose_backend

GPU = torch.device("cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How a stream is asked to run; see `Stream.open`.

    Attributes:
        size: of the video, None for the model's own.
        policy: what is remembered.
        backend: of the kernels, by name.
        graphs: capture model calls.
        prompts: how many are known beforehand.
        gpu_memory: bytes to reckon with; None for what is free on the GPU.
    """

    size: Geometry | None
    policy: MemoryPolicy
    backend: str | None
    graphs: bool
    prompts: int
    gpu_memory: int | None


def settle(spec: ModelSpec, demand: Demand) -> tuple[ModelSpec, Estimate | None]:
    """See that a model fits; nothing is loaded.

    Args:
        spec: which model; without a place for the text encoder it gets the fastest that fits.
        demand: how it is asked to run.

    Returns:
        The spec with all places told, and its estimate; as it was and None where there is no
        GPU to fit.

    Raises:
        ConfigError: it cannot fit; says what to change.
        CheckpointError: there is no such model, or a piece of it is missing or does not fit.
    """
    device = model_device(spec.device)
    if device.type != "cuda" and demand.gpu_memory is None:
        return spec, None
    try:
        return _fitted(spec, demand, device)
    # of a library's release whose layers cannot be counted; a model may run all the same
    except (RuntimeError, TypeError, AttributeError) as error:
        if demand.gpu_memory is None:
            return spec, None
        raise ConfigError(
            f"the memory of the model {spec.name!r} cannot be reckoned with the installed torch,"
            f" transformers and diffusers ({error}); leave --gpu-memory out"
        ) from error


def _fitted(
    spec: ModelSpec, demand: Demand, device: torch.device
) -> tuple[ModelSpec, Estimate | None]:
    """See `settle`."""
    dtype = dtype_name(spec, GPU)
    outline = Outline.open(spec, dtype=dtype)
    backend = _backend(demand.backend, device, DTYPES[dtype])
    asked = Setting(
        geometry=demand.size or outline.model.geometry,
        policy=demand.policy,
        backend=backend,
        graphs=demand.graphs,
        prompts=demand.prompts,
        text=spec.text or "device",
        offload=spec.offload,
    )
    available = demand.gpu_memory or free_bytes(device)
    places = text_places(outline, asked) if spec.text is None else (asked.text,)
    for place in places:
        found = estimate(outline, replace(asked, text=place))
        if found.peak_bytes <= available:
            return (replace(spec, text=place) if outline.is_folder else spec), found
    needed = estimate(outline, asked)
    raise ConfigError(refusal(plan(outline, asked, available), needed, name=spec.name))


def free_bytes(device: torch.device) -> int:
    """What a GPU has for a model, counted as if torch had not come yet."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused + CONTEXT_BYTES


def _backend(name: str | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The one that would run there; a GPU that is only supposed can run all of them."""
    where = device if device.type == "cuda" else torch.device("meta")
    try:
        return choose_backend(name, device=where, dtype=dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error
