"""What files that were found would take on a GPU, and what makes them fit one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from afstream.checkpoints.findings import BACKBONES, FOLDERS, Finding, usable
from afstream.checkpoints.kinds import PIECES, Kind
from afstream.config import WAN_BACKBONES
from afstream.errors import ConfigError
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


def fit_found(findings: Sequence[Finding], config: StreamConfig) -> Fit | None:
    """Count what was found as generate would run it on a GPU, in bfloat16.

    A student alone is counted with the text encoder and the VAE that are published for it;
    without `gpu_memory` there is no plan; None where nothing makes a model whose size is known.

    Raises:
        ConfigError: a setting is unknown or impossible, or transformers is not installed
            or cannot be counted.
        CheckpointError: the pieces do not fit each other.
    """
    model = _meta_model(findings)
    if model is None:
        return None
    own, wanted = model.model.geometry, model.geometry(config.size)
    if wanted != own and not model.model.family.any_size:
        raise ConfigError(
            f"size is {wanted.width_px}x{wanted.height_px}; the model {model.name} makes"
            f" {own.width_px}x{own.height_px} px only"
        )
    config = replace(config, model=model.spec, prompts=PROMPTS)
    try:
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


def _meta_model(findings: Sequence[Finding]) -> MetaModel | None:
    """A model made of what was found."""
    taken = usable(findings)
    folder = _first(taken, *FOLDERS)
    student, pocket = _first(taken, *BACKBONES), _first(taken, "pocket model")
    vae, text = _first(taken, "Wan VAE", "tiny VAE"), _first(taken, "text encoder")
    provided = {piece for one in taken for piece in one.provides or one.of_parts}
    if folder is not None and provided.issuperset(PIECES):
        spec = ModelSpec(
            name=str(folder.path),
            student=student and str(student.path),
            loras=tuple(str(one.path) for one in findings if one.supported and one.lora),
            vae=vae and str(vae.path),
            text_encoder_file=text and str(text.path),
        )
        return MetaModel.open(StreamConfig(model=spec), dtype=DTYPE)
    base = next((one for one in (student, folder) if one is not None and one.backbone), None)
    for size, config in WAN_BACKBONES.items():
        if base is not None and base.backbone == config:
            name = f"{base.path}, with Wan2.1's own text encoder and VAE"
            return published(size, name=name)
    if pocket is not None:
        config = StreamConfig(model=ModelSpec(name=str(pocket.path)))
        return MetaModel.open(config, dtype=DTYPE)
    return None


def _first(findings: Sequence[Finding], *kinds: Kind) -> Finding | None:
    """The first finding of some kinds."""
    return next((one for one in findings if one.kind in kinds), None)
