"""A stage of distribution matching distillation (DMD), for models of any family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from afstream.config import SamplerConfig
from afstream.geometry import Geometry
from afstream.memory_plan.training import TrainingReport
from afstream.model.bundle import VideoModel
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import DmdTrainer, Models
from afstream.training.runs.stages import C, Stage, StagePlan
from afstream.training.runs.watch import draw_sheet
from afstream.training.trainer.loop import Report
from afstream.training.trainer.lora import save_trained
from afstream.training.trainer.optim import trained

# what a stage leaves: the weights that learned, or their LoRA
STUDENT = "{}-student.safetensors"
CRITIC = "{}-critic.safetensors"
EMA = "{}-ema.safetensors"


class DmdStage(Stage[C]):
    """A stage that leaves student, critic and the student's moving average.

    Args:
        context: recipe, folder and processes.
        name: of the stage and of its table.
        config: its table.
        reads: what it begins with.
        geometry: size of the video.
        alpha: of the LoRA, where one is trained.
    """

    def __init__(
        self,
        context: C,
        name: str,
        config: DmdConfig,
        *,
        reads: Sequence[str],
        geometry: Geometry,
        alpha: float = 1.0,
    ) -> None:
        outputs = [output.format(name) for output in (STUDENT, CRITIC, EMA)]
        super().__init__(context, name, outputs, steps=config.iterations, batch=config.batch)
        self.config = config
        self._reads = tuple(reads)
        self._geometry = geometry
        self._alpha = alpha

    @abstractmethod
    def count_memory(self) -> TrainingReport:
        """What one process holds, beside activations."""

    @abstractmethod
    def open_models(self) -> tuple[Models, VideoModel]:
        """The networks, as the stages before left them, and a stream's model of the student."""

    def describe(self) -> StagePlan:
        """See `Stage.describe`."""
        return StagePlan(
            summary=self.config.describe(),
            reads=self._reads,
            rates=self.config.rates,
            memory=self.count_memory(),
        )

    def run(self, report: Report) -> None:
        """See `Stage.run`."""
        config, processes = self.config, self.context.processes
        models, video = self.open_models()
        student, geometry = models.student, self._geometry
        size = (student.config.in_dim, geometry.latent_height, geometry.latent_width)
        trainer = DmdTrainer(config, models, config.policy, SamplerConfig(), size, processes)

        def draw(path: Path) -> None:
            with trainer.ema.in_place_of(student):
                draw_sheet(
                    *(video, config.policy, self.context.recipe.sheet),
                    path if processes.is_first else None,
                    size=geometry,
                )

        self.train(trainer, report, draw)
        kept = (trained(student), trained(models.critic), trainer.ema.weights)
        for path, weights in zip(self.outputs, kept, strict=True):
            save_trained(path, weights, alpha=self._alpha, processes=processes)
