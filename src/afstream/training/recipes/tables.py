"""The tables of a recipe. Nothing has a default: a recipe is complete."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from afstream.errors import ConfigError, TimelineError
from afstream.families.base import ModelFamily
from afstream.families.pocket.family import POCKET
from afstream.families.wan.family import WAN
from afstream.geometry import ChunkClock, Geometry
from afstream.timeline import Timeline
from afstream.training.dmd.config import DmdConfig
from afstream.training.ode.pairs import PairsConfig
from afstream.training.ode.trainer import OdeConfig
from afstream.training.pocket.data import ClipsConfig
from afstream.training.pocket.retention_trainer import RetentionConfig
from afstream.training.pocket.student_trainer import StudentConfig
from afstream.training.pocket.teacher_trainer import TeacherConfig
from afstream.training.pocket.vae_trainer import VaeTrainingConfig
from afstream.training.trainer.health import WatchConfig
from afstream.training.trainer.settings import (
    Batch,
    Count,
    Positive,
    Seed,
    Whole,
    at_most,
    check_chunks,
)
from afstream.validation import Checked

WanSize = Literal["wan-1.3b", "wan-14b"]
Dtype = Literal["float32", "bfloat16"]
Pixels = Annotated[int, Field(ge=1), at_most(2**14)]
Rank = Annotated[int, Field(ge=0), at_most(2**12)]
# of a sheet's timeline: it is played again and again while a stage trains
MOST_MINUTES = 60


class LogConfig(Checked):
    """`[log]`: steps between two lines of the log, and between two checkpoints."""

    report_every: Count
    save_every: Count


def _playable(text: str) -> str:
    Timeline.parse(text)
    return text


class SheetConfig(Checked):
    """`[sheet]`: contact sheets of what the moving average makes.

    Attributes:
        every: steps between two sheets; 0 for none.
        seed: of their noise, always the same.
        timeline: the timeline that is played, see docs/timeline.md.
    """

    every: Whole
    seed: Seed
    timeline: Annotated[str, AfterValidator(_playable)]

    def parsed(self) -> Timeline:
        """The timeline."""
        return Timeline.parse(self.timeline)


class PocketStart(Checked):
    """`[start]` of a pocket recipe.

    Attributes:
        student: `new` trains codec and student first; `embedded` takes them from the
            embedded model, the path of a pocket model file from that.
        device: where networks learn, such as `cpu` or `cuda`; numbers are drawn on the CPU.
    """

    student: str
    device: str


class ExportConfig(Checked):
    """`[export]`: the stage whose moving average becomes the model."""

    stage: Literal["student", "short", "long", "retention"]


class PocketRecipe(Checked):
    """A recipe for the pocket model; one attribute a table."""

    family: ClassVar[ModelFamily] = POCKET

    model: Literal["pocket"]
    start: PocketStart
    vae: VaeTrainingConfig
    clips: ClipsConfig
    student: StudentConfig
    teacher: TeacherConfig
    short: DmdConfig
    long: DmdConfig
    retention: RetentionConfig
    export: ExportConfig
    log: LogConfig
    sheet: SheetConfig
    watch: WatchConfig

    @model_validator(mode="after")
    def _agrees(self) -> PocketRecipe:
        """Refuse tables that disagree with each other or with the family."""
        _check_lengths(self)
        if self.start.student != "new" and self.export.stage == "student":
            raise ConfigError(
                f"start.student is {self.start.student!r}, so there is no stage student to export;"
                " set export.stage to short, long or retention"
            )
        if self.clips.window_frames != self.short.horizon_frames:
            raise ConfigError(
                f"clips.window_frames is {self.clips.window_frames} and short.horizon_frames"
                f" {self.short.horizon_frames}; the teacher must see what it was trained on"
            )
        return self


class WanStart(Checked):
    """`[start]` of a Wan recipe.

    Attributes:
        student: folder of the Wan2.1 model that the student and the critic begin with.
        teacher: folder of the Wan2.1 model that teaches.
        prompts: file of prompts or of pairs, see `afstream.training.wan.embeddings.read_pairs`.
        negative_prompt: prompt that guidance leads away from.
    """

    student: str
    teacher: str
    prompts: str
    negative_prompt: str


class SizesConfig(Checked):
    """`[sizes]`: sizes of models and video, dtypes, and processes.

    Attributes:
        student: model size of the student and the critic.
        teacher: model size of the teacher.
        width_px: width of the video.
        height_px: height of the video.
        trained: dtype of the weights that learn.
        frozen: dtype of those that do not, and of keys and values.
        processes: processes over which a batch is spread, one a GPU.
        shard: whether weights, gradients and optimizer states are spread over them as well.
    """

    student: WanSize
    teacher: WanSize
    width_px: Pixels
    height_px: Pixels
    trained: Dtype
    frozen: Dtype
    processes: Batch
    shard: bool

    @model_validator(mode="after")
    def _fits(self) -> SizesConfig:
        """Refuse a size that makes no whole tokens."""
        _ = self.geometry
        return self

    @property
    def geometry(self) -> Geometry:
        """The video's size."""
        return WAN.sized(self.width_px, self.height_px)


class LoraConfig(Checked):
    """`[lora]`: LoRA of student and critic in `[long]`; `[short]` trains all weights.

    Attributes:
        rank: of the adapters on every linear map of the layers; 0 trains the weights themselves.
        alpha: adapters are scaled by alpha / rank.
    """

    rank: Rank
    alpha: Positive


class WanRecipe(Checked):
    """A recipe for a Wan2.1 model; one attribute a table."""

    family: ClassVar[ModelFamily] = WAN

    model: Literal["wan"]
    start: WanStart
    sizes: SizesConfig
    pairs: PairsConfig
    ode: OdeConfig
    short: DmdConfig
    long: DmdConfig
    lora: LoraConfig
    log: LogConfig
    sheet: SheetConfig
    watch: WatchConfig

    @model_validator(mode="after")
    def _agrees(self) -> WanRecipe:
        """Refuse tables that disagree with the family."""
        _check_lengths(self)
        return self


Recipe = PocketRecipe | WanRecipe


def _check_lengths(recipe: Recipe) -> None:
    """Refuse windows that are no whole chunks of the family, and sheets that it cannot play."""
    lengths = recipe.family.lengths
    for table, config in (("short", recipe.short), ("long", recipe.long)):
        for name, frames in (
            ("horizon_frames", config.horizon_frames),
            ("overlap_frames", config.overlap_frames),
        ):
            check_chunks(f"{table}.{name}", frames, lengths.chunk_frames)
    clock = ChunkClock(format=recipe.family.format, chunk_frames=lengths.chunk_frames)
    try:
        plan = recipe.sheet.parsed().plan(clock)
    except TimelineError as error:
        raise ConfigError(f"sheet.timeline: {error}") from error
    if (minutes := plan.duration_s / 60) > MOST_MINUTES:
        raise ConfigError(
            f"sheet.timeline lasts {minutes:.0f} minutes; at most {MOST_MINUTES} are allowed, for"
            " it is played anew for every sheet"
        )
