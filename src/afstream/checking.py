"""Before a stream is opened: everything that it would refuse, told without reading weights.

`Stream.open` begins with `check`, and so does every command that opens a stream or only says
whether one could be opened: none of them has a check of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from afstream.attention import choose_attention
from afstream.checkpoints.findings import Finding, specs_of
from afstream.errors import AfstreamError, PromptError
from afstream.families.base import VideoModel
from afstream.families.opening import check_compiler, dtype_name, placement
from afstream.families.presets import memory_of
from afstream.families.registry import family_of
from afstream.geometry import ChunkClock, Geometry
from afstream.memory_plan.fit import GPU, fit
from afstream.memory_plan.meta_model import open_meta
from afstream.memory_plan.report import MemoryReport
from afstream.model.block_swap import pick_layers
from afstream.spec import StreamConfig
from afstream.timeline import Cue


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A stream that `Stream.open` will open, unless what its files hold is damaged.

    Attributes:
        config: as it was asked for; on a GPU with a place for the text encoder.
        model: on the meta device: names, shapes and sizes, no values.
        geometry: the video's size in pixels, latent values and tokens.
        clock: lengths of chunks and frames.
        estimate: memory that a GPU needs; None where there is no GPU to fit.
    """

    config: StreamConfig
    model: VideoModel
    geometry: Geometry
    clock: ChunkClock
    estimate: MemoryReport | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video, px."""
        return self.geometry.width_px, self.geometry.height_px


def check(config: StreamConfig, cues: Sequence[Cue] = ()) -> Checked:
    """See that a stream can be opened and play its prompts; only headers of files are read.

    Values of weights that are not finite, and files that are damaged behind their headers, are
    found when the stream is opened.

    Args:
        config: how the stream is opened.
        cues: prompts that know where they stand, in the place of the config's own.

    Raises:
        ConfigError: a setting is unknown or impossible here, or the model does not fit the GPU.
        CheckpointError: there is no such model, or a piece is missing or does not fit.
        PromptError: the model cannot understand a prompt of the config.
        TimelineError: it cannot understand that of a cue; says where it stands.
    """
    spec = config.model
    family = family_of(spec)
    chunk_frames = memory_of(config, family.lengths).lengths.chunk_frames
    where = placement(spec)
    choose_attention(config.backend, device=where.device, dtype=where.dtype)
    model = open_meta(config, dtype=dtype_name(spec, GPU))
    geometry = model.sized(config.size)
    pick_layers(spec.offload, model.backbone.config.num_layers)
    if config.compiled:
        check_compiler(model.backbone, where.device)
    if cues:
        _check_cues(model, cues)
    else:
        _check_prompts(model, config.prompts)
    config, estimate = fit(config, model)
    return Checked(
        config=config,
        model=model,
        geometry=geometry,
        clock=ChunkClock(format=model.format, chunk_frames=chunk_frames),
        estimate=estimate,
    )


def check_found(
    findings: Sequence[Finding], config: StreamConfig
) -> tuple[list[Checked], list[str]]:
    """See what could be opened of what was found: each model, with all that lies beside it.

    Args:
        findings: of files and folders.
        config: all but the model.

    Returns:
        What could be opened, and the sentences of what could not.
    """
    found, faults = list[Checked](), list[str]()
    for spec in specs_of(findings):
        try:
            # whether files go together is the same everywhere
            found.append(check(replace(config, model=replace(spec, device="cpu"))))
        except AfstreamError as error:
            faults.append(str(error))
    return found, faults


def _check_cues(model: VideoModel, cues: Iterable[Cue]) -> None:
    firsts = dict[str, Cue]()
    for cue in cues:
        firsts.setdefault(cue.prompt, cue)
    for prompt, cue in firsts.items():
        try:
            model.family.check_prompt(model.text, prompt)
        except PromptError as error:
            raise cue.place.error(str(error)) from error


def _check_prompts(model: VideoModel, prompts: Iterable[str]) -> None:
    for prompt in dict.fromkeys(prompts):
        model.family.check_prompt(model.text, prompt)
