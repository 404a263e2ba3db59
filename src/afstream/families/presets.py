"""Public families of few-step Wan2.1 students: the settings that their own scripts use.

Every number was read from a family's public inference configs and code; docs/models.md says
what was read, and nobody has run the files here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from afstream.config import MemoryPolicy, SamplerConfig, memory_policy
from afstream.errors import ConfigError
from afstream.families.recognition import recognise
from afstream.spec import ModelSpec

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
        memory: the name in `MEMORIES` that comes closest, for the run record.
        entry: the part of the student's file that the public script takes; empty when the file
            holds nothing but weights.
        differences: what the public script does otherwise.
    """

    name: str
    title: str
    reproduces: str
    policy: MemoryPolicy
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    memory: str
    entry: str
    differences: tuple[str, ...]


SELF_FORCING = MemoryPolicy(
    window_frames=21, sink_frames=0, positions="absolute", at_switch="keep", junction="none"
)
LONGLIVE = MemoryPolicy(positions="absolute", junction="none")

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="self-forcing",
            title="Self-Forcing",
            reproduces="the chunk-wise inference of guandeh17/Self-Forcing",
            policy=SELF_FORCING,
            memory="rolling",
            entry="generator_ema",
            differences=(LATENTS_21, ONE_PROMPT),
        ),
        Preset(
            name="causal-forcing",
            title="Causal-Forcing",
            reproduces="the chunk-wise inference of thu-ml/Causal-Forcing",
            policy=SELF_FORCING,
            memory="rolling",
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
            memory="recache",
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
            policy=MemoryPolicy(horizon_frames=12, junction="none"),
            memory="recache",
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
            memory="recache",
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
            policy=MemoryPolicy(junction="gap"),
            memory="anchor",
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
            policy=MemoryPolicy(window_frames=6, sink_frames=0, horizon_frames=6, junction="none"),
            sampler=SamplerConfig(steps=(1000, 800, 600, 400, 200)),
            memory="recache",
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


def choose_memory(
    memory: str | None, junction: str | None, found: Preset | None
) -> tuple[str, MemoryPolicy]:
    """What a stream remembers: the memory that was asked for, else the preset's, else `anchor`.

    Args:
        memory: a key of `MEMORIES`.
        junction: hold or gap.
        found: the preset that was asked for or recognised.

    Returns:
        The memory's name and its policy.

    Raises:
        ConfigError: unknown memory, or a hand-over that it cannot take.
    """
    if memory is not None or found is None:
        name = memory or "anchor"
        return name, memory_policy(name, junction=junction)
    if junction is not None:
        handed = memory_policy(found.memory, junction=junction).junction
        return found.memory, replace(found.policy, junction=handed)
    return found.memory, found.policy
