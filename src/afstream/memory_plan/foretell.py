"""What files that were found would take on a GPU, and the plan that makes them fit one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from afstream.checkpoints.findings import BACKBONES, FOLDERS, Finding
from afstream.config import WAN_BACKBONES
from afstream.errors import ConfigError
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.estimate import Estimate, estimate
from afstream.memory_plan.outline import Outline, Setting
from afstream.memory_plan.plan import MemoryPlan, plan
from afstream.spec import ModelSpec
from afstream_kernels import choose_backend

DTYPE = "bfloat16"
# known beforehand, as in a timeline
PROMPTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """Memory of a model on a GPU.

    Attributes:
        model: what was reckoned with, in words.
        setting: how it is run: in bfloat16, with the kernels that a GPU takes.
        estimate: of that.
        plan: what makes it fit a GPU; None where none was named.
    """

    model: str
    setting: Setting
    estimate: Estimate
    plan: MemoryPlan | None


def foretell(
    findings: Sequence[Finding],
    *,
    policy: MemoryPolicy,
    size: Geometry | None = None,
    gpu_memory: int | None = None,
) -> Foretold | None:
    """Reckon with what was found, as generate would run it on a GPU.

    Args:
        findings: a folder and what is given beside it, or a student alone, which is reckoned
            with the text encoder and the VAE that are published for it.
        policy: what the stream remembers.
        size: of the video, None for the model's own.
        gpu_memory: bytes of the GPU that it shall fit.

    Returns:
        None where nothing of it makes a model whose size is known.

    Raises:
        ConfigError: transformers or diffusers is not installed.
        CheckpointError: the pieces do not fit each other.
    """
    found = _outline(findings)
    if found is None:
        return None
    model, outline = found
    setting = Setting(
        geometry=size or outline.model.geometry,
        policy=policy,
        backend=choose_backend(None, device=torch.device("meta"), dtype=torch.bfloat16),
        prompts=PROMPTS,
    )
    if size is not None and size != outline.model.geometry and not outline.model.any_size:
        own = outline.model.geometry
        raise ConfigError(
            f"size is {size.width_px}x{size.height_px}; the model {model} makes"
            f" {own.width_px}x{own.height_px} px only"
        )
    return Foretold(
        model=model,
        setting=setting,
        estimate=estimate(outline, setting),
        plan=None if gpu_memory is None else plan(outline, setting, gpu_memory),
    )


def _outline(findings: Sequence[Finding]) -> tuple[str, Outline] | None:
    """A model of what was found, and what to call it."""
    usable = [one for one in findings if one.supported]
    folder = next((one for one in usable if one.kind in FOLDERS), None)
    student = next((one for one in usable if one.kind in BACKBONES), None)
    pocket = next((one for one in usable if one.kind == "pocket model"), None)
    if folder is not None and not _lacks(folder, student):
        spec = ModelSpec(
            name=str(folder.path),
            student=None if student is None else str(student.path),
            loras=tuple(str(one.path) for one in usable if one.lora),
        )
        return str(folder.path), Outline.open(spec, dtype=DTYPE)
    base = next((one for one in (student, folder) if one is not None and one.backbone), None)
    for name, config in WAN_BACKBONES.items():
        if base is not None and base.backbone == config:
            # diffusers and transformers come with it
            from afstream.memory_plan.published import published  # noqa: PLC0415

            return f"{base.path}, with Wan2.1's own text encoder and VAE", published(name)
    if pocket is not None:
        return str(pocket.path), Outline.open(ModelSpec(name=str(pocket.path)), dtype=DTYPE)
    return None


def _lacks(folder: Finding, student: Finding | None) -> bool:
    """Whether a folder lacks a piece that is not given beside it."""
    given = {"backbone"} if student is not None else set[str]()
    return bool({"backbone", "text encoder", "tokenizer", "VAE"} - set(folder.provides) - given)
