"""What a recipe says, table by table. Nothing has a default: a recipe is complete."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from afstream.config import from_mapping
from afstream.errors import ConfigError
from afstream.geometry import (
    CHUNK_FRAMES,
    FPS,
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    ChunkClock,
    Geometry,
    VideoFormat,
)
from afstream.timeline import Timeline
from afstream.training.dmd.sequences import WindowPlan
from afstream.training.dmd.trainer import MatchingConfig
from afstream.training.machinery.health import WatchConfig
from afstream.training.machinery.limits import Amount, Count, Positive, Share, Whole
from afstream.training.ode.pairs import PairsConfig
from afstream.training.ode.trainer import OdeConfig
from afstream.training.pocket.data import ClipsConfig
from afstream.training.pocket.student_stage import StudentConfig
from afstream.training.pocket.teacher_stage import TeacherConfig
from afstream.training.pocket.vae_stage import VaeStageConfig

MemoryName = Literal["anchor", "recache", "recapture", "rolling", "clear"]
WanSize = Literal["wan-1.3b", "wan-14b"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingTable:
    """`[short]` and `[long]`: distribution matching in the student's own rollouts.

    Attributes:
        memory: what the student's streams remember, at which positions.
        iterations: windows made, and critic updates.
        critic_updates: of these, per update of the student.
        batch: sequences that an update learns from, over all processes.
        parts: that a process learns from its sequences in, one after the other.
        horizon_frames: latent frames of a window, what the teacher sees.
        overlap_frames: of the window before, that a later one begins with.
        max_frames: a sequence ends when another window would make it longer.
        switch: whether the prompt changes once in each sequence.
        guidance: of the teacher.
        shift: of the timesteps of teacher and critic.
        lr: of the student, AdamW.
        critic_lr: of the critic, AdamW.
        betas: of both.
        weight_decay: of both.
        clip: largest norm of a gradient.
        average: decay of the moving average of the student's weights, which is what ships.
        average_from: update of the student with which the average begins.
        seed: of everything that is drawn.
    """

    memory: MemoryName
    iterations: Count
    critic_updates: Count
    batch: Count
    parts: Count
    horizon_frames: Count
    overlap_frames: Count
    max_frames: Count
    switch: bool
    guidance: Amount
    shift: Positive
    lr: Positive
    critic_lr: Positive
    betas: tuple[Share, Share]
    weight_decay: Amount
    clip: Positive
    average: Share
    average_from: Whole
    seed: Whole

    def __post_init__(self) -> None:
        """Refuse lengths that hold no whole chunks, and updates that never come."""
        if self.iterations % self.critic_updates:
            raise ConfigError(
                f"iterations is {self.iterations}; it must be a multiple of critic_updates,"
                f" {self.critic_updates}"
            )
        for name, frames in (
            ("horizon_frames", self.horizon_frames),
            ("overlap_frames", self.overlap_frames),
        ):
            if frames % CHUNK_FRAMES:
                raise ConfigError(
                    f"{name} is {frames}; it must be a multiple of the chunk, {CHUNK_FRAMES}"
                )
        if not self.overlap_frames < self.horizon_frames <= self.max_frames:
            raise ConfigError(
                f"overlap_frames, horizon_frames and max_frames are {self.overlap_frames},"
                f" {self.horizon_frames} and {self.max_frames}; the first must be below the"
                " second, and the second at most the third"
            )
        if self.switch and not self.plan.boundaries:
            raise ConfigError(
                f"switch is true and max_frames {self.max_frames}; a switch needs a second"
                f" window, so max_frames of {self.horizon_frames + self.plan.new_frames} or more"
            )

    @property
    def plan(self) -> WindowPlan:
        """Lengths of windows and sequences."""
        return WindowPlan(
            horizon_frames=self.horizon_frames,
            overlap_frames=self.overlap_frames,
            max_frames=self.max_frames,
        )

    @property
    def what(self) -> str:
        """The stage in a few words."""
        plan = self.plan
        length = (
            f"windows of {self.horizon_frames} latent frames, {plan.new_frames} new in each"
            f" later one, up to {plan.last_frame}"
            if plan.boundaries
            else f"one window of {self.horizon_frames} latent frames"
        )
        switch = "a switch in each sequence" if self.switch else "no switch"
        return f"distribution matching, {length}, {switch}, memory {self.memory}"

    def config(self) -> MatchingConfig:
        """As the trainer takes it."""
        return from_mapping(MatchingConfig, {**asdict(self), "plan": self.plan})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTable:
    """`[log]`: steps between two lines of the log, and between two checkpoints."""

    report_every: Count
    save_every: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetTable:
    """`[sheet]`: contact sheets of what the moving average makes.

    Attributes:
        every: steps between two sheets; 0 for none.
        seed: of their noise, always the same.
        timeline: what is played.
    """

    every: Whole
    seed: Whole
    timeline: str

    def __post_init__(self) -> None:
        """Refuse a timeline that cannot be played."""
        video = VideoFormat(fps=FPS, temporal_stride=TEMPORAL_STRIDE, spatial_stride=SPATIAL_STRIDE)
        self.parsed().plan(ChunkClock(format=video, chunk_frames=CHUNK_FRAMES))

    def parsed(self) -> Timeline:
        """The timeline."""
        return Timeline.parse(self.timeline)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTable:
    """`[start]` of a pocket recipe.

    Attributes:
        student: `new` trains codec and student first; `embedded` takes them from the
            embedded model.
    """

    student: Literal["new", "embedded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTable:
    """`[export]`: the stage whose moving average becomes the model."""

    stage: Literal["student", "short", "long"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PocketRecipe:
    """A recipe for the pocket model; one attribute a table."""

    model: Literal["pocket"]
    start: StartTable
    vae: VaeStageConfig
    clips: ClipsConfig
    student: StudentConfig
    teacher: TeacherConfig
    short: MatchingTable
    long: MatchingTable
    export: ExportTable
    log: LogTable
    sheet: SheetTable
    watch: WatchConfig

    def __post_init__(self) -> None:
        """Refuse tables that disagree."""
        if self.start.student == "embedded" and self.export.stage == "student":
            raise ConfigError(
                "start.student is 'embedded', so there is no stage student to export; set"
                " export.stage to short or long"
            )
        if self.clips.window_frames != self.short.horizon_frames:
            raise ConfigError(
                f"clips.window_frames is {self.clips.window_frames} and short.horizon_frames"
                f" {self.short.horizon_frames}; the teacher must see what it was trained on"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WanStartTable:
    """`[start]` of a Wan recipe.

    Attributes:
        student: folder of the Wan2.1 model that the student and the critic begin with.
        teacher: folder of the Wan2.1 model that teaches.
        prompts: file of prompts or of pairs, see `afstream.training.wan.embeddings.read_pairs`.
        negative_prompt: what guidance leads away from.
    """

    student: str
    teacher: str
    prompts: str
    negative_prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesTable:
    """`[sizes]`: what memory is counted for.

    Attributes:
        student: of the student and the critic.
        teacher: of the teacher.
        width_px: of the video.
        height_px: of the video.
        trained: dtype of the weights that learn.
        frozen: dtype of those that do not, and of keys and values.
        processes: over which a batch is spread, one a GPU.
        shard: whether weights, gradients and optimizer states are spread over them as well.
    """

    student: WanSize
    teacher: WanSize
    width_px: Count
    height_px: Count
    trained: Dtype
    frozen: Dtype
    processes: Count
    shard: bool

    def __post_init__(self) -> None:
        """Refuse a size that makes no whole tokens."""
        _ = self.geometry

    @property
    def geometry(self) -> Geometry:
        """The video's size."""
        return Geometry(width_px=self.width_px, height_px=self.height_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsTable:
    """`[pairs]`: the teacher's trajectories, for ODE regression.

    Attributes:
        pairs: how many.
        frames: latent frames of a clip.
        steps: of the solver.
        solver: `heun` asks the teacher twice a step, `euler` once and less exactly.
        guidance: of the teacher.
        shard: pairs in a file.
        batch: pairs side by side in a model call.
        seed: of the noise.
    """

    pairs: Count
    frames: Count
    steps: Count
    solver: Literal["heun", "euler"]
    guidance: Amount
    shard: Count
    batch: Count
    seed: Whole

    def config(self) -> PairsConfig:
        """As the maker of pairs takes it."""
        return PairsConfig(**asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class OdeTable:
    """`[ode]`: causal initialisation by regression on the pairs.

    Attributes:
        iterations: optimizer steps.
        batch: pairs in a step, over all processes.
        lr: of the student, AdamW.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip: largest norm of a gradient.
        average: decay of the moving average, which is what goes on.
        seed: of the order of pairs and of the denoise steps.
    """

    iterations: Count
    batch: Count
    lr: Positive
    betas: tuple[Share, Share]
    weight_decay: Amount
    clip: Positive
    average: Share
    seed: Whole

    def __post_init__(self) -> None:
        """Refuse what the trainer refuses."""
        self.config()

    def config(self) -> OdeConfig:
        """As the trainer takes it."""
        return OdeConfig(**asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTable:
    """`[lora]`: how much of student and critic learns in `[long]`; all of it in `[short]`.

    Attributes:
        rank: of the adapters on every linear map of the layers; 0 trains the weights themselves.
        alpha: they are scaled by alpha / rank.
    """

    rank: Whole
    alpha: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class WanRecipe:
    """A recipe for a Wan2.1 model; one attribute a table."""

    model: Literal["wan"]
    start: WanStartTable
    sizes: SizesTable
    pairs: PairsTable
    ode: OdeTable
    short: MatchingTable
    long: MatchingTable
    lora: LoraTable
    log: LogTable
    sheet: SheetTable
    watch: WatchConfig


Recipe = PocketRecipe | WanRecipe
