"""The networks of a Wan run: student, critic and teacher from folders, on this process's device.

The weights that learn are kept in float32 and cast when they are gathered; everything else is kept
in the dtype that it computes in. The text encoder is opened only to fill the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from afstream.checkpoints import Parts, resolve
from afstream.errors import ConfigError
from afstream.families.wan.model import backbone_source
from afstream.families.wan.text import load_text
from afstream.families.wan.tokenizer import TEXT_LEN
from afstream.families.wan.vae import WanVae, load_vae
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from afstream.training.dmd.trainer import Models, Prompts
from afstream.training.trainer.distributed import Processes, shard
from afstream.training.trainer.lora import adapt
from afstream.training.wan.embeddings import CachedPrompts, EmbeddingCache, read_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworksConfig:
    """Three networks of Wan's kind.

    Attributes:
        student: folder of student and critic, with the VAE and the text encoder.
        start: a student's file to begin with instead of that folder's own backbone.
        critic_start: a file for the critic to begin with.
        teacher: folder of the teacher, often the largest model.
        rank: of the LoRA that student and critic learn; 0 trains all of their weights.
        alpha: of the LoRA.
        dtype: that all networks compute in.
    """

    student: Path
    start: Path | None = None
    critic_start: Path | None = None
    teacher: Path
    rank: int
    alpha: float = 1.0
    dtype: torch.dtype


def open_models(
    config: NetworksConfig, prompts: Prompts, processes: Processes
) -> tuple[Models, WanVae]:
    """Load all networks and spread them over the processes; their VAE comes once more beside them.

    Raises:
        CheckpointError: pieces are missing or do not fit; says which.
        ConfigError: the networks do not fit each other, or a package is not installed.
    """
    device, dtype = processes.device, config.dtype
    parts = resolve(ModelSpec(name=str(config.student)), ("VAE",))
    vae = load_vae(parts.place("VAE"), device=device, dtype=dtype)
    # the largest first, while there is most room
    teacher = open_backbone(config.teacher, None, device, dtype)
    shard(teacher, processes)
    student, critic = (
        open_learner(
            *(config.student, start, processes), dtype=dtype, rank=config.rank, alpha=config.alpha
        )
        for start in (config.start, config.critic_start)
    )
    own, other = student.config, teacher.config
    if (own.text_dim, own.in_dim) != (other.text_dim, other.in_dim):
        raise ConfigError(
            f"the teacher reads {other.in_dim} latent channels and text of {other.text_dim}"
            f" values, the student {own.in_dim} and {own.text_dim}; give models of one family"
        )
    models = Models(student=student, critic=critic, teacher=teacher, codec=vae, prompts=prompts)
    return models, vae


def open_prompts(
    folder: Path,
    pairs: Path,
    cache: Path,
    *,
    processes: Processes,
    negative: str,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    others: Sequence[str] = (),
) -> CachedPrompts:
    """Embeddings of a file of pairs of prompts; the first process encodes prompts that are new.

    `folder` has the text encoder, `cache` is a folder that all processes see, `negative` the prompt
    that guidance leads away from, `dtype` the embeddings', `seed` that of their order; `others` are
    more prompts to encode.

    Raises:
        CheckpointError: pieces are missing or do not fit; says which.
        PromptError: the pairs cannot be read, or a prompt is too long.
    """
    parts = resolve(ModelSpec(name=str(folder)), ("text encoder", "tokenizer"))
    listed = read_pairs(pairs)
    kept = EmbeddingCache(cache, _identity(parts, dtype))
    wanted = [negative, *others, *(prompt for pair in listed for prompt in pair)]
    if processes.is_first and kept.missing(wanted):
        text = load_text(
            parts.place("text encoder"),
            parts.tokenizer,
            device=processes.device,
            dtype=dtype,
            text_len=parts.folder.declared().get("text_len", TEXT_LEN),
        )
        kept.add(wanted, text)
    processes.wait()
    kept.refresh()
    return CachedPrompts(listed, kept, negative, seed=seed)


def open_learner(
    folder: Path,
    start: Path | None,
    processes: Processes,
    *,
    dtype: torch.dtype,
    rank: int = 0,
    alpha: float = 1.0,
) -> Backbone:
    """A backbone of a folder that learns, spread over the processes.

    `start` is a file in the place of the folder's own weights; with a rank a LoRA learns.
    """
    backbone = open_backbone(folder, start, processes.device, dtype if rank else torch.float32)
    if rank:
        adapt(backbone, rank=rank, alpha=alpha)
    else:
        backbone.requires_grad_(True)
    # each layer is computed again in the backward pass, which needs less memory
    backbone.recompute_layers()
    shard(backbone, processes, dtype=None if dtype == torch.float32 else dtype)
    return backbone


def open_backbone(
    folder: Path, start: Path | None, device: torch.device, dtype: torch.dtype
) -> Backbone:
    """A backbone without gradients; see `open_learner`."""
    spec = ModelSpec(name=str(folder), student=str(start) if start else None)
    source, _ = backbone_source(resolve(spec, ("backbone",)), spec)
    return source.build(device=device, dtype=dtype)


def _identity(parts: Parts, dtype: torch.dtype) -> str:
    """An encoder's identity: names and sizes of its files, because reading 11 GB takes long."""
    paths = [
        path
        for part in (parts.place("text encoder"), parts.tokenizer)
        for path in (sorted(part.iterdir()) if part.is_dir() else [part])
    ]
    return " ".join([str(dtype), *(f"{path.name}:{path.stat().st_size}" for path in paths)])
