"""Public few-step students of Wan2.1: the settings that their own scripts use.

Every number was read from the projects' public inference configs and code; docs/models.md says
what was read and what the public scripts do otherwise. Nobody has run the files here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from afstream.config import SamplerConfig, WindowLengths
from afstream.errors import ConfigError
from afstream.families.recognition import recognise
from afstream.families.wan.family import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.memories.anchor import Anchor
from afstream.kvcache.memories.recache import RecacheWindow
from afstream.kvcache.memories.rolling import Rolling
from afstream.kvcache.policy import MemoryPolicy
from afstream.kvcache.positions import TRI_REGION
from afstream.spec import ModelSpec, StreamConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How one project's students are run.

    Attributes:
        name: what users type.
        policy: window, sink, positions, and what a prompt switch does.
        sampler: denoise steps and shift.
    """

    name: str
    policy: MemoryPolicy
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


CLIP = Rolling(lengths=replace(LENGTHS, window_frames=21, sink_frames=0))
# with the horizon as long as the window, every position is the place in the window
INSIDE = replace(LENGTHS, horizon_frames=12)
# 3 latent frames of context at positions 0 .. 2, the chunk at 3 .. 5, for ever
CONTEXT = replace(LENGTHS, window_frames=6, sink_frames=0, horizon_frames=6)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(name="self-forcing", policy=CLIP),
        Preset(name="causal-forcing", policy=CLIP),
        Preset(name="longlive", policy=RecacheWindow(lengths=LENGTHS)),
        Preset(
            name="longlive-infinity", policy=RecacheWindow(lengths=INSIDE, positions=TRI_REGION)
        ),
        Preset(name="memflow", policy=RecacheWindow(lengths=LENGTHS)),
        Preset(name="anchor-forcing", policy=Anchor(lengths=LENGTHS, junction="gap")),
        Preset(
            name="krea-realtime",
            policy=RecacheWindow(lengths=CONTEXT, positions=TRI_REGION),
            sampler=SamplerConfig(steps=(1000, 800, 600, 400, 200)),
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
