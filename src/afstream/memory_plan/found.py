"""What files that were found would take on a GPU, and what makes them fit one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from afstream.checkpoints.findings import BACKBONES, FOLDERS, Finding
from afstream.config import WAN_BACKBONES
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.opening import DTYPES
from afstream.families.wan.published import published_wan
from afstream.memory_plan.count import CannotCountError
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.fit import Fit, best_fit
from afstream.memory_plan.meta_model import MetaModel
from afstream.spec import ModelSpec, StreamConfig

DTYPE = "bfloat16"
# as many prompts as in a timeline, known beforehand
PROMPTS = tuple(map(str, range(6)))


def fit_found(
    findings: Sequence[Finding], config: StreamConfig, opened: VideoModel | None
) -> Fit | None:
    """Count what was found as generate would run it on a GPU; without `gpu_memory` without a plan.

    Args:
        findings: a student alone is counted with the text encoder and the VAE that are published
            for it.
        config: what was opened, and how it would run.
        opened: on the meta device, in bfloat16; None where nothing could be.

    Returns:
        None where nothing makes a model whose size is known.

    Raises:
        ConfigError: a setting is unknown or impossible, or transformers is not installed or cannot
            be counted.
    """
    try:
        model = MetaModel(opened, config.model) if opened else _published_for(findings)
        if model is None:
            return None
        config = replace(config, model=model.spec, prompts=PROMPTS)
        if config.gpu_memory is not None:
            return best_fit(model, config, config.gpu_memory)
        report = estimate(model, config)
    except CannotCountError as error:
        raise ConfigError(f"the installed transformers cannot be counted: {error}") from error
    return Fit(asked=report, best=report)


def published(size: str, *, name: str = "") -> MetaModel:
    """A published Wan2.1 by its size, a key of `WAN_BACKBONES`; its files need not be there.

    Raises:
        ConfigError: transformers is not installed.
    """
    model = published_wan(size, dtype=DTYPES[DTYPE])
    return MetaModel(model, ModelSpec(name=size), name=name)


def _published_for(findings: Sequence[Finding]) -> MetaModel | None:
    """A student, or a folder that lacks pieces, with what is published for it; None for others."""
    for kinds in (BACKBONES, FOLDERS):
        for one in findings:
            for size, config in WAN_BACKBONES.items():
                if one.kind in kinds and one.supported and one.backbone == config:
                    return published(
                        size, name=f"{one.path}, with Wan2.1's own text encoder and VAE"
                    )
    return None
