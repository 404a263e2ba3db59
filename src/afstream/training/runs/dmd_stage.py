"""A stage of distribution matching distillation (DMD), for models of any family."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from afstream.config import SamplerConfig
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream.memory_plan.report import Part
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.trainer import DmdTrainer, Models
from afstream.training.runs.stages import RunContext, Stage
from afstream.training.trainer.log import Report
from afstream.training.trainer.lora import save_trained
from afstream.training.trainer.optim import trained

# what a stage leaves: the weights that learned, or their LoRA
STUDENT = "{}-student.safetensors"
CRITIC = "{}-critic.safetensors"
EMA = "{}-ema.safetensors"


def dmd_stage(
    context: RunContext,
    name: str,
    config: DmdConfig,
    *,
    reads: tuple[str, ...],
    open_models: Callable[[], tuple[Models, VideoModel]],
    policy: MemoryPolicy,
    geometry: Geometry,
    memory: Callable[[int], Iterable[Part]],
    alpha: float = 1.0,
) -> Stage:
    """A stage that leaves student, critic and the student's moving average.

    `open_models` opens the networks as the stages before left them, and a model that streams with
    the student's present weights; `policy` is what its streams remember, `alpha` the LoRA's where
    one is trained. The others are those of `Stage`.
    """
    files = tuple(file.format(name) for file in (STUDENT, CRITIC, EMA))

    def run(report: Report) -> None:
        models, video = open_models()
        student = models.student
        size = (student.config.in_dim, geometry.latent_height, geometry.latent_width)
        trainer = DmdTrainer(*(config, models, policy, SamplerConfig(), size, context.processes))

        draw = context.sheets(trainer.ema, video, policy, geometry)
        context.train(name, trainer, config.iterations, report, draw)
        kept = (trained(student), trained(models.critic), trainer.ema.weights)
        for file, weights in zip(files, kept, strict=True):
            path = context.folder / file
            save_trained(path, weights, alpha=alpha, processes=context.processes)

    return Stage(
        context=context,
        name=name,
        summary=config.describe(),
        reads=reads,
        files=files,
        run=run,
        steps=config.iterations,
        batch=config.batch,
        rates={"lr": config.lr, "critic_lr": config.critic_lr},
        memory=memory,
    )
