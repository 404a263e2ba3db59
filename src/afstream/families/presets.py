"""Public families of few-step Wan2.1 students: the settings that their own scripts use.

Every number was read from a family's public inference configs and code; docs/models.md says
what was read, and nobody has run the files here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from afstream.config import SamplerConfig, WindowLengths
from afstream.errors import ConfigError
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.memories.anchor import Anchor
from afstream.kvcache.memories.recache import RecacheWindow
from afstream.kvcache.memories.rolling import Rolling
from afstream.kvcache.policy import MemoryPolicy
from afstream.kvcache.positions import TRI_REGION
from afstream.spec import ModelSpec, StreamConfig

LATENTS_21 = (
    "the public script stops after 21 latent frames, which is what the files were trained for;"
    " here the window rolls on, and the video may drift"
)
ONE_PROMPT = (
    "the public script has one prompt for a video; here a switch changes the text and keeps the"
    " window"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How one family of students is run.

    Attributes:
        name: what users type.
        title: the family's own name.
        reproduces: whose settings these are.
        policy: window, sink, positions, and what a prompt switch does.
        sampler: denoise steps and shift.
        entry: the part of the student's file that the public script takes; empty when the file
            holds nothing but weights.
        differences: what the public script does otherwise.
    """

    name: str
    title: str
    reproduces: str
    policy: MemoryPolicy
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    entry: str
    differences: tuple[str, ...]


# what Wan2.1's chunk-wise students were trained for
LENGTHS = WindowLengths(window_frames=12, sink_frames=3, chunk_frames=3, horizon_frames=21)
SELF_FORCING = Rolling(lengths=replace(LENGTHS, window_frames=21, sink_frames=0))
LONGLIVE = RecacheWindow(lengths=LENGTHS)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="self-forcing",
            title="Self-Forcing",
            reproduces="the chunk-wise inference of guandeh17/Self-Forcing",
            policy=SELF_FORCING,
            entry="generator_ema",
            differences=(LATENTS_21, ONE_PROMPT),
        ),
        Preset(
            name="causal-forcing",
            title="Causal-Forcing",
            reproduces="the chunk-wise inference of thu-ml/Causal-Forcing",
            policy=SELF_FORCING,
            entry="generator",
            differences=(
                LATENTS_21,
                ONE_PROMPT,
                "the frame-wise files need chunks of one latent frame, which cannot be streamed",
            ),
        ),
        Preset(
            name="longlive",
            title="LongLive",
            reproduces="the interactive inference of NVlabs/LongLive 1.0",
            policy=LONGLIVE,
            entry="generator",
            differences=(
                "some versions of the public configs denoise 6 latent frames together; here 3",
                "with global_sink: false the public script renews the sink at a switch, as the"
                " memory recapture does; here it is kept",
            ),
        ),
        Preset(
            name="longlive-infinity",
            title="LongLive, positions inside the window",
            reproduces="use_infinite_attention of NVlabs/LongLive 1.0",
            # with the horizon as long as the window, every position is the place in the window
            policy=RecacheWindow(lengths=replace(LENGTHS, horizon_frames=12), positions=TRI_REGION),
            entry="generator",
            differences=(
                "with global_sink: false the public script renews the sink at a switch; here it is"
                " kept",
            ),
        ),
        Preset(
            name="memflow",
            title="MemFlow",
            reproduces="the interactive inference of KlingTeam/MemFlow, without its memory bank",
            policy=LONGLIVE,
            entry="generator",
            differences=(
                "the public script also sees a bank of 3 latent frames, chosen from the past by"
                " the prompt; here there is none",
            ),
        ),
        Preset(
            name="anchor-forcing",
            title="Anchor Forcing",
            reproduces="the interactive inference of vivoCameraResearch/Anchor-Forcing",
            policy=Anchor(lengths=LENGTHS, junction="gap"),
            entry="generator",
            differences=(
                "where a switch is asked for at a multiple of 3 latent frames, the public script"
                " shows its junction one chunk later",
            ),
        ),
        Preset(
            name="krea-realtime",
            title="Krea realtime 14B",
            reproduces="the server of krea-ai/realtime-video, with its 6 steps",
            # 3 latent frames of context at positions 0 .. 2, the chunk at 3 .. 5, for ever
            policy=RecacheWindow(
                lengths=replace(LENGTHS, window_frames=6, sink_frames=0, horizon_frames=6),
                positions=TRI_REGION,
            ),
            sampler=SamplerConfig(steps=(1000, 800, 600, 400, 200)),
            entry="",
            differences=(
                "the public server computes the context's keys anew before every chunk, from the"
                " context alone; here they are those of the context pass, renewed at a switch",
                "the public server encodes the context's first frame again from its picture; here"
                " its latents are kept",
                "the public schedule ends with one more call at timestep 0; here it is left out",
            ),
        ),
    )
}


def preset(name: str) -> Preset:
    """Look up a preset by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def find_preset(name: str | None, spec: ModelSpec) -> Preset | None:
    """The preset of a name; without one, that of the student's and the LoRAs' file names.

    Raises:
        ConfigError: there is none of that name.
    """
    if name is None:
        name = recognise([str(Path(file).absolute()) for file in spec.files])
    return None if name is None else preset(name)


def memory_of(config: StreamConfig, lengths: WindowLengths) -> MemoryPolicy:
    """What a stream remembers: the memory that was asked for, else the preset's, else `anchor`.

    Args:
        config: names a memory or has a policy, a hand-over, and a preset or a model's files.
        lengths: what the model's family was trained for.

    Raises:
        ConfigError: unknown memory or preset, or a hand-over that the memory cannot take.
    """
    found = find_preset(config.preset, config.model)
    if isinstance(config.memory, str):
        return memory_policy(config.memory, lengths, junction=config.junction)
    policy = config.memory or (found.policy if found else memory_policy("anchor", lengths))
    return policy if config.junction is None else policy.with_junction(config.junction)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """How a family's files are called where they are published.

    Attributes:
        preset: its name.
        students: file names of the student.
        folder: the folder that they lie in, where the file name alone says too little.
        lora: file name of the LoRA.
        complete: whether the student is one without the LoRA.
        entries: one of these must be in the student's file.
    """

    preset: str
    students: tuple[str, ...]
    folder: str = ""
    lora: str = ""
    complete: bool = True
    entries: tuple[str, ...] = ("generator", "generator_ema")

    def fits(self, student: PurePath, loras: Sequence[PurePath]) -> bool:
        """Whether these are the files, and no others."""
        wanted = [self.lora] if loras or not self.complete else []
        return (
            student.name in self.students
            and [lora.name for lora in loras] == wanted
            and all(self.folder in ("", _folder(path)) for path in (student, *loras))
        )


PUBLISHED = (
    _Published(
        preset="self-forcing",
        students=(
            "self_forcing_dmd.pt",
            "self_forcing_sid.pt",
            "self_forcing_sid_v2.pt",
            "self_forcing_gan.pt",
        ),
    ),
    _Published(preset="causal-forcing", students=("causal_forcing.pt",), folder="chunkwise"),
    _Published(preset="longlive", students=("longlive_base.pt",), lora="lora.pt"),
    _Published(
        preset="memflow", students=("base.pt",), folder="memflow", lora="lora.pt", complete=False
    ),
    _Published(
        preset="anchor-forcing",
        students=("base.pt",),
        folder="anchorforcing",
        lora="final.pt",
        complete=False,
    ),
    _Published(
        preset="krea-realtime", students=("krea-realtime-video-14b.safetensors",), entries=()
    ),
)
# of LongLive, MemFlow and Anchor Forcing alike
PUBLISHED_LORA_RANK = 256


def recognise(
    file_names: Sequence[str],
    *,
    entries: Sequence[str] = (),
    lora_ranks: Sequence[int] = (),
) -> str | None:
    """The preset for files as they are published; None when that is not certain.

    What it rests on, file and folder names being those of the families' own download commands:

    - Self-Forcing: `self_forcing_dmd.pt`, `_sid`, `_sid_v2` or `_gan`; the 10-second file and
      `ode_init.pt` are not among them, the one's window being unknown, the other no student;
    - Causal-Forcing: `chunkwise/causal_forcing.pt`; `framewise/` has a file of the same name;
    - LongLive: `longlive_base.pt`, alone or with `lora.pt`;
    - MemFlow: `base.pt` with `lora.pt`, Anchor Forcing: `base.pt` with `final.pt`, each in the
      folder of its repository, because these names say nothing alone;
    - Krea realtime: `krea-realtime-video-14b.safetensors`.

    Another LoRA beside them may have been tuned for another window, so it leads to None; so do a
    rank other than the published 256 and a student's file without `generator`. Wrappers in the
    weights' names (`_fsdp_wrapped_module.`) tell no family from another, and are not asked for.

    Args:
        file_names: the student's path, then those of the LoRAs; the files are not looked at.
        entries: top-level names in the student's file; empty when not known.
        lora_ranks: of the LoRAs; empty when not known.
    """
    if not file_names or any(rank != PUBLISHED_LORA_RANK for rank in lora_ranks):
        return None
    student, *loras = map(PurePath, file_names)
    for published in PUBLISHED:
        known = not entries or not published.entries or set(entries) & set(published.entries)
        if known and published.fits(student, loras):
            return published.preset
    return None


def recognise_among(paths: Sequence[str]) -> str | None:
    """The preset for files in any order, with others among them; None when not certain."""
    files = [str(Path(path).absolute()) for path in paths]
    names = {name for one in PUBLISHED for name in (*one.students, one.lora)}
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
    return folder.name.rpartition("--")[2].lower().replace("-", "").replace("_", "")
