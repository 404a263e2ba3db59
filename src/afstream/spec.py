"""Which model, from which files, and where its parts go; told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from afstream.errors import ConfigError
from afstream.paths import expanded
from afstream.timeline.cue import MAX_SEED

if TYPE_CHECKING:
    from afstream.kvcache.policy import MemoryPolicy

TextPlace = Literal["device", "cpu", "drop"]
# `--vae tiny`: the tiny VAE that lies in the model's folder
TINY_VAE = "tiny"
# what a spec adds to a model, in words; which of it a model takes is for its family to say
Addition = Literal[
    "student",
    "LoRA",
    "other VAE",
    "other text encoder",
    "place for the text encoder",
    "offloaded layers",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model as a user asks for it.

    Attributes:
        name: `pocket`, the path of a pocket model file or of a Wan2.1 folder, or
            `random:wan-1.3b` or `random:wan-14b` (see `afstream.families.random`). In this and
            other paths a leading `~/` is the user's own folder.
        student: a few-step student's file or folder, in the place of a Wan folder's own backbone.
        loras: files to add to the backbone, each `FILE` or `FILE:SCALE`.
        vae: `tiny`, or the path of another decoder; else the folder's own.
        text_encoder_file: the path of another text encoder; else the folder's own.
        text: where the text encoder runs: on the `device`, on the `cpu`, or on the device until
            the prompts that are known beforehand are encoded, and nowhere afterwards (`drop`).
            None is the device; on a GPU that has no room for it there, `drop` where prompts are
            known beforehand, and `cpu` where they are not.
        offload: layers of the backbone that lie in host memory and are copied to the device when
            their turn comes.
        device: cpu or cuda; the GPU where there is one.
        dtype: float32, bfloat16 or float64; bfloat16 on a GPU, float32 elsewhere.
    """

    name: str = "pocket"
    student: str | None = None
    loras: tuple[str, ...] = ()
    vae: str | None = None
    text_encoder_file: str | None = None
    text: TextPlace | None = None
    offload: int = 0
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Refuse a number that means nothing, and expand paths."""
        if self.offload < 0:
            raise ConfigError(f"{self.offload} layers are to be offloaded; give 0 or more")
        for name in ("name", "student", "vae", "text_encoder_file"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, expanded(given))
        object.__setattr__(self, "loras", tuple(map(expanded, self.loras)))

    @property
    def additions(self) -> tuple[Addition, ...]:
        """What is asked for that not every family takes."""
        given: dict[Addition, object] = {
            "student": self.student,
            "LoRA": self.loras,
            "other VAE": self.vae,
            "other text encoder": self.text_encoder_file,
            "place for the text encoder": self.text,
            "offloaded layers": self.offload,
        }
        return tuple(name for name, value in given.items() if value)

    @property
    def files(self) -> tuple[str, ...]:
        """The student's path, then those of the LoRAs; none without a student."""
        if self.student is None:
            return ()
        return self.student, *(str(split_scale(lora)[0]) for lora in self.loras)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How a stream is opened and run; see `Stream.open`.

    Attributes:
        model: which model, from which files, and where its parts go.
        seed: same seed, same machine: identical frames.
        size: width and height in pixels. [default: the model's own]
        memory: anchor, recache, recapture, rolling or clear, or a policy of one's own.
            [default: the preset's, or anchor]
        junction: hold or gap, for a memory with a junction. [default: hold]
        preset: settings of a public family, see `afstream.families.presets`.
            [default: recognised by the files' names]
        backend: triton, sdpa, reference or auto. [default: AFSTREAM_BACKEND, or auto]
        compiled: compile the layers' elementwise parts, which takes up to minutes at first.
        graphs: on a GPU, capture a chunk's model calls once and replay them.
        ahead: submit each chunk before the one before it is collected, from the second one on;
            frames are the same. [default: on a GPU]
        prompts: those that are known beforehand; all of them or none, because a Wan folder's text
            encoder may be dropped once they are encoded (see `ModelSpec.text`).
        gpu_memory: bytes of GPU memory to plan for, as if there were such a GPU.
            [default: what is free]
    """

    model: ModelSpec = field(default_factory=ModelSpec)
    seed: int = 0
    size: tuple[int, int] | None = None
    memory: str | MemoryPolicy | None = None
    junction: str | None = None
    preset: str | None = None
    backend: str | None = None
    compiled: bool = False
    graphs: bool = True
    ahead: bool | None = None
    prompts: tuple[str, ...] = ()
    gpu_memory: int | None = None

    def __post_init__(self) -> None:
        """Refuse values of another type, and a seed that no timeline could name."""
        if type(self.seed) is not int or not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed is {self.seed!r}; it must be a whole number, 0 to {MAX_SEED}")
        if self.size is not None and [type(side) for side in self.size] != [int, int]:
            raise ConfigError(f"size is {self.size!r}; give width and height, such as (832, 480)")
        named = self.memory is None or isinstance(self.memory, str)
        if not named and not hasattr(self.memory, "visible"):
            raise ConfigError(f"memory is {self.memory!r}; give a memory's name or a MemoryPolicy")
        if self.gpu_memory is not None and not self.gpu_memory > 0:
            raise ConfigError(
                f"gpu_memory is {self.gpu_memory!r}; give a number of bytes above 0, or None"
            )
        if isinstance(self.prompts, str):
            raise ConfigError(f"prompts is the text {self.prompts!r}; give a tuple of prompts")


def split_scale(given: str) -> tuple[Path, float]:
    """`FILE` or `FILE:SCALE`; a colon before anything but a number belongs to the path."""
    path, _, scale = given.rpartition(":")
    try:
        return Path(path or given), float(scale) if path else 1.0
    except ValueError:
        return Path(given), 1.0


def text_place(word: str | None) -> TextPlace | None:
    """The text encoder's place by its name; None stays None, others raise `ConfigError`."""
    for place in (None, *get_args(TextPlace)):
        if word == place:
            return place
    raise ConfigError(
        f"the text encoder's place is {word!r}; choose one of {', '.join(get_args(TextPlace))}"
    )
