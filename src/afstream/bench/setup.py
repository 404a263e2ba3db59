"""What is measured: a stream's settings, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from afstream.errors import ConfigError
from afstream.families.presets import choose_memory, find_preset
from afstream.families.registry import family_of
from afstream.spec import ModelSpec
from afstream.stream import Stream

# Full and under-specified prompts in turn, in words that the pocket model knows too.
PROMPTS = (
    "A red star drifts left over a meadow.",
    "The same star turns right.",
    "A blue heart spins at night.",
    "It bounces.",
    "A golden ball circles over the sea.",
    "Now it is purple.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A stream and the load it is put under; see `Stream.open` for the first nine.

    Attributes:
        duration_s: seconds of video to make.
        switch_every_s: seconds of video from one prompt to the next; 0 for no switches.
        stretch_s: seconds of video over which speed and memory are taken together.
        prompts: asked for in turn.
        consumer: what takes the frames, in words.
    """

    model: ModelSpec = field(default_factory=ModelSpec)
    seed: int = 0
    size: tuple[int, int] | None = None
    memory: str | None = None
    junction: str | None = None
    preset: str | None = None
    backend: str | None = None
    compiled: bool = False
    graphs: bool = True
    gpu_memory: int | None = None
    duration_s: float = 60.0
    switch_every_s: float = 10.0
    stretch_s: float = 10.0
    prompts: tuple[str, ...] = PROMPTS
    consumer: str = "none"

    def __post_init__(self) -> None:
        """Refuse times that measure nothing."""
        if not self.duration_s > 0:
            raise ConfigError(f"duration is {self.duration_s} s; give more than 0, such as 60")
        if not self.stretch_s > 0:
            raise ConfigError(f"a stretch is {self.stretch_s} s; give more than 0, such as 10")
        if not self.switch_every_s >= 0:
            raise ConfigError(
                f"the prompt is to change every {self.switch_every_s} s; give 0 for never, or a"
                " time such as 10"
            )
        if not self.prompts:
            raise ConfigError("there is no prompt to measure with; give at least one")

    def open(self) -> Stream:
        """Open the stream."""
        return Stream.open(
            self.model,
            seed=self.seed,
            size=self.size,
            memory=self.memory,
            junction=self.junction,
            preset=self.preset,
            backend=self.backend,
            compiled=self.compiled,
            graphs=self.graphs,
            prompts=self.prompts,
            gpu_memory=self.gpu_memory,
        )

    @property
    def memory_name(self) -> str:
        """What the stream remembers, by name."""
        found, family = find_preset(self.preset, self.model), family_of(self.model)
        return choose_memory(self.memory, self.junction, found, family.lengths).name

    def prompt(self, segment: int) -> str:
        """The prompt of a segment, counted from 0."""
        return self.prompts[segment % len(self.prompts)]

    def segment_at(self, seconds: float) -> int:
        """The segment that is asked for at a time of the video."""
        return int(seconds // self.switch_every_s) if self.switch_every_s else 0
