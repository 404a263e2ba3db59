"""The load under which a stream is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from afstream.errors import ConfigError
from afstream.spec import StreamConfig

# Full and under-specified prompts in alternation, in words that the pocket model knows too.
PROMPTS = (
    "A red star drifts left over a meadow.",
    "The same star turns right.",
    "A blue heart spins at night.",
    "It bounces.",
    "A golden ball circles over the sea.",
    "Now it is purple.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A stream and its load.

    Attributes:
        stream: how it is opened; its prompts are used in turn, again and again.
        duration_s: seconds of video to make.
        switch_every_s: seconds of video from one prompt to the next; 0 for no switches.
        stretch_s: seconds of video that are summed up in one stretch.
        consumer: what takes the frames, in words.
    """

    stream: StreamConfig = field(default_factory=lambda: StreamConfig(prompts=PROMPTS))
    duration_s: float = 60.0
    switch_every_s: float = 10.0
    stretch_s: float = 10.0
    consumer: str = "none"

    def __post_init__(self) -> None:
        """Refuse times with which nothing would be measured."""
        if not self.duration_s > 0:
            raise ConfigError(f"duration is {self.duration_s} s; give more than 0, such as 60")
        if not self.stretch_s > 0:
            raise ConfigError(f"a stretch is {self.stretch_s} s; give more than 0, such as 10")
        if not self.switch_every_s >= 0:
            raise ConfigError(
                f"the prompt is to change every {self.switch_every_s} s; give 0 for never, or a"
                " time such as 10"
            )
        if not self.stream.prompts:
            raise ConfigError("there is no prompt to measure with; give at least one")

    def prompt(self, segment: int) -> str:
        """The prompt of a segment, counted from 0."""
        return self.stream.prompts[segment % len(self.stream.prompts)]

    def segment_at(self, seconds: float) -> int:
        """The segment at a time of the video."""
        return int(seconds // self.switch_every_s) if self.switch_every_s else 0
