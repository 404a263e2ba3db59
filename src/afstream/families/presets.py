"""Public few-step students of Wan2.1: the settings that their own scripts use.

Every number was read from the projects' public inference configs and code; docs/models.md says
what was read and what the public scripts do otherwise. Nobody has run the files here. Their names
are in `afstream.hub.catalogue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from afstream.config import SamplerConfig, WindowLengths
from afstream.errors import ConfigError
from afstream.families.wan.facts import LENGTHS
from afstream.hub.catalogue import CATALOGUE, Published, folded
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.memories.anchor import Anchor
from afstream.kvcache.memories.recache import RecacheWindow
from afstream.kvcache.memories.rolling import Rolling
from afstream.kvcache.policy import MemoryPolicy
from afstream.kvcache.positions import TRI_REGION
from afstream.spec import ModelSpec, StreamConfig

# of LongLive, MemFlow and Anchor Forcing alike
PUBLISHED_LORA_RANK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How one project's students are run, and what their files are called where they are published.

    Attributes:
        name: what users type.
        policy: window, sink, positions, and what a prompt switch does.
        sampler: denoise steps and shift.
        files: the files by whose names it is recognised; None for a preset that must be named.
        complete: whether the student is one without the LoRA.
        entries: one of these must be in the student's file.
    """

    name: str
    policy: MemoryPolicy
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    files: Published | None = None
    complete: bool = True
    entries: tuple[str, ...] = ("generator", "generator_ema")

    def fits(self, student: PurePath, loras: Sequence[PurePath]) -> bool:
        """Whether these are the published files, and no others."""
        if self.files is None:
            return False
        wanted = self.files.loras if loras or not self.complete else ()
        return (
            student.name in self.files.students
            and tuple(lora.name for lora in loras) == wanted
            and all(self.files.folder in ("", _folder(path)) for path in (student, *loras))
        )


CLIP = Rolling(lengths=replace(LENGTHS, window_frames=21, sink_frames=0))
# with the horizon as long as the window, every position is the place in the window
INSIDE = replace(LENGTHS, horizon_frames=12)
# 3 latent frames of context at positions 0 .. 2, the chunk at 3 .. 5, for ever
CONTEXT = replace(LENGTHS, window_frames=6, sink_frames=0, horizon_frames=6)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(name="self-forcing", policy=CLIP, files=CATALOGUE["self-forcing"]),
        Preset(name="causal-forcing", policy=CLIP, files=CATALOGUE["causal-forcing"]),
        Preset(
            name="longlive",
            policy=RecacheWindow(lengths=LENGTHS),
            files=CATALOGUE["longlive"],
        ),
        Preset(
            name="longlive-infinity", policy=RecacheWindow(lengths=INSIDE, positions=TRI_REGION)
        ),
        Preset(
            name="memflow",
            policy=RecacheWindow(lengths=LENGTHS),
            files=CATALOGUE["memflow"],
            complete=False,
        ),
        Preset(
            name="anchor-forcing",
            policy=Anchor(lengths=LENGTHS, junction="gap"),
            files=CATALOGUE["anchor-forcing"],
            complete=False,
        ),
        Preset(
            name="krea-realtime",
            policy=RecacheWindow(lengths=CONTEXT, positions=TRI_REGION),
            sampler=SamplerConfig(steps=(1000, 800, 600, 400, 200)),
            files=CATALOGUE["krea-realtime"],
            entries=(),
        ),
    )
}


def preset(name: str) -> Preset:
    """Look up a preset by name; an unknown one raises `ConfigError`."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def find_preset(name: str | None, spec: ModelSpec) -> Preset | None:
    """The preset of a name; without one, that of the files' names; see `preset`."""
    if name is None:
        name = recognise([str(Path(file).absolute()) for file in spec.files])
    return None if name is None else preset(name)


def memory_of(config: StreamConfig, lengths: WindowLengths) -> MemoryPolicy:
    """What a stream remembers: the memory that was asked for, else the preset's, else `anchor`.

    A memory that is asked for by name gets `lengths`, for which the model's family was trained.

    Raises:
        ConfigError: unknown memory or preset, or a hand-over that the memory cannot take.
    """
    found = find_preset(config.preset, config.model)
    if isinstance(config.memory, str):
        return memory_policy(config.memory, lengths, junction=config.junction)
    policy = config.memory or (found.policy if found else memory_policy("anchor", lengths))
    return policy if config.junction is None else policy.with_junction(config.junction)


def recognise(
    file_names: Sequence[str],
    *,
    entries: Sequence[str] = (),
    lora_ranks: Sequence[int] = (),
) -> str | None:
    """The preset for files as they are published, by their names; None when that is not certain.

    File and folder names are those of the projects' own download commands. Another LoRA beside
    them may have been tuned for another window, so it leads to None; so do a rank other than the
    published 256 and a student's file without `generator`. Wrappers in the weights' names
    (`_fsdp_wrapped_module.`) tell no project from another, and are not asked for.

    Args:
        file_names: the student's path, then those of the LoRAs; the files are not looked at.
        entries: top-level names in the student's file; empty when not known.
        lora_ranks: of the LoRAs; empty when not known.
    """
    if not file_names or any(rank != PUBLISHED_LORA_RANK for rank in lora_ranks):
        return None
    student, *loras = map(PurePath, file_names)
    for published in PRESETS.values():
        known = not entries or not published.entries or set(entries) & set(published.entries)
        if known and published.fits(student, loras):
            return published.name
    return None


def recognise_among(paths: Sequence[str]) -> str | None:
    """The preset for files in any order, with others among them; None when not certain."""
    files = [str(Path(path).absolute()) for path in paths]
    names = {name for row in CATALOGUE.values() for name in (*row.students, *row.loras)}
    known = [file for file in files if PurePath(file).name in names]
    # a student's name may also be that of no LoRA
    found = {
        name
        for index, student in enumerate(known)
        if (name := recognise([student, *known[:index], *known[index + 1 :]]))
    }
    return found.pop() if len(found) == 1 else None


def _folder(path: PurePath) -> str:
    """The name of a file's folder, or of the repository in a model hub's cache, folded."""
    folder = path.parent
    if folder.parent.name == "snapshots":
        folder = folder.parent.parent
    return folded(folder.name.rpartition("--")[2])
