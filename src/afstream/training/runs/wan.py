"""The Wan recipe in one folder: ODE regression, short, long, export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from afstream.checkpoints import merge_loras, read_lora, read_student
from afstream.config import SamplerConfig
from afstream.errors import CheckpointError
from afstream.families.presets import LENGTHS
from afstream.families.wan.model import wan_model
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone
from afstream.training.dmd.trainer import MatchingTrainer, Models
from afstream.training.machinery.checkpoints import CheckpointFolders
from afstream.training.machinery.loop import Report, Trainer, train
from afstream.training.machinery.optim import RunningAverage, trained
from afstream.training.machinery.parallel import ALONE, Processes
from afstream.training.ode.pairs import Pairs, make_pairs
from afstream.training.ode.trainer import OdeTrainer
from afstream.training.recipes.tables import WanRecipe
from afstream.training.runs.stages import SHEETS, Draw, Observer, Stage, draw_sheet, made
from afstream.training.runs.wan_stages import AVERAGE, CRITIC, DTYPES, MODEL, STUDENT, wan_stages
from afstream.training.wan.embeddings import CachedPrompts
from afstream.training.wan.networks import (
    NetworksConfig,
    open_backbone,
    open_learner,
    open_models,
    open_prompts,
    save_trained,
)


class WanRun:
    """See `afstream.training.stages.Run`.

    Args:
        recipe: what is done.
        folder: where everything is written; all processes must see the same.
        processes: that share the run.
    """

    def __init__(self, recipe: WanRecipe, folder: Path, processes: Processes = ALONE) -> None:
        self.recipe = recipe
        self.folder = folder
        self.stages = wan_stages(recipe, folder)
        self._processes = processes
        self._sampler = SamplerConfig()
        geometry = recipe.sizes.geometry
        self._size = (16, geometry.latent_height, geometry.latent_width)

    def do(self, stage: Stage, report: Report) -> None:
        """See `Run.do`; all processes call it."""
        if stage.name == "ode":
            self._ode(stage, report)
        elif stage.name == "export":
            self._export()
        else:
            self._match(stage, report)

    def _ode(self, stage: Stage, report: Report) -> None:
        recipe, processes = self.recipe, self._processes
        table, policy = recipe.ode.config(), memory_policy(recipe.short.memory, LENGTHS)
        prompts = self._prompts(table.seed)
        pairs = self._path("pairs")
        self._make_pairs(prompts, pairs, report)
        config = self._networks(rank=0)
        student = open_learner(config, config.student, None, processes)
        trainer = OdeTrainer(
            table, student, Pairs(pairs), prompts, policy, self._sampler, processes
        )
        self._train(stage, trainer, report)
        self._save(STUDENT.format(stage.name), trainer.average.weights)

    def _make_pairs(self, prompts: CachedPrompts, folder: Path, report: Report) -> None:
        """Each process makes some of the files, with a whole teacher of its own."""
        recipe, processes = self.recipe, self._processes
        config = recipe.pairs.config()
        files = range(processes.rank, -(-config.pairs // config.shard), processes.count)
        config_dtype = DTYPES[recipe.sizes.frozen]
        teacher = open_backbone(Path(recipe.start.teacher), None, processes.device, config_dtype)
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if processes.is_first:
                share = sum(min(config.shard, config.pairs - file * config.shard) for file in files)
                report({"kind": "pairs", "done": done, "of": share})

        make_pairs(
            *(teacher, prompts, folder, config, self._sampler, self._size),
            shards=files,
            report=tell,
        )
        processes.wait()

    def _match(self, stage: Stage, report: Report) -> None:
        recipe = self.recipe
        is_long = stage.name == "long"
        table = recipe.long if is_long else recipe.short
        before = "short" if is_long else "ode"
        config = self._networks(
            rank=recipe.lora.rank if is_long else 0,
            start=made(self._path(STUDENT.format(before)), before),
            critic_start=made(self._path(CRITIC.format(before)), before) if is_long else None,
        )
        prompts = self._prompts(table.seed)
        models = open_models(config, prompts, self._processes)
        policy = memory_policy(table.memory, LENGTHS)
        trainer = MatchingTrainer(
            table.config(), models, policy, self._sampler, self._size, self._processes
        )

        def draw(path: Path) -> None:
            self._draw(models, prompts, trainer.average, policy, path)

        self._train(stage, trainer, report, draw)
        for name, weights in (
            (STUDENT, trained(models.student)),
            (CRITIC, trained(models.critic)),
            (AVERAGE, trainer.average.weights),
        ):
            self._save(name.format(stage.name), weights)

    def _export(self) -> None:
        """The average of `long` as one student's file; a LoRA is merged."""
        if not self._processes.is_first:
            return
        average = made(self._path(AVERAGE.format("long")), "long")
        if self.recipe.lora.rank:
            base = made(self._path(STUDENT.format("short")), "short")
            lora = read_lora(average, alpha=self.recipe.lora.alpha)
            weights = merge_loras(read_student(base).weights, [lora])
        else:
            weights = read_student(average).weights
        partial = self._path("student.partial")
        save_file({name: value.contiguous() for name, value in weights.items()}, partial)
        partial.replace(self._path(MODEL))

    def _networks(
        self, *, rank: int, start: Path | None = None, critic_start: Path | None = None
    ) -> NetworksConfig:
        recipe = self.recipe
        return NetworksConfig(
            student=Path(recipe.start.student),
            start=str(start) if start else None,
            critic_start=str(critic_start) if critic_start else None,
            teacher=Path(recipe.start.teacher),
            rank=rank,
            alpha=recipe.lora.alpha,
            dtype=DTYPES[recipe.sizes.frozen],
        )

    def _prompts(self, seed: int) -> CachedPrompts:
        recipe = self.recipe
        return open_prompts(
            Path(recipe.start.student),
            Path(recipe.start.prompts),
            self._path("embeddings"),
            processes=self._processes,
            negative=recipe.start.negative_prompt,
            dtype=DTYPES[recipe.sizes.frozen],
            seed=seed,
            others=[cue.prompt for cue in recipe.sheet.parsed().cues],
        )

    def _train(
        self, stage: Stage, trainer: Trainer, report: Report, draw: Draw | None = None
    ) -> None:
        """Run a trainer to its end, watched."""
        recipe, processes = self.recipe, self._processes
        store = CheckpointFolders(self._path(stage.name), processes)
        observer = Observer(
            *(store.log, self.folder / SHEETS / stage.name, recipe.watch, report),
            every=recipe.sheet.every,
            draw=draw,
            processes=processes,
        )
        train(
            *(trainer, stage.steps, store, report),
            every=recipe.log.report_every,
            save_every=recipe.log.save_every,
            processes=processes,
            after=observer,
        )

    def _draw(
        self,
        models: Models,
        prompts: CachedPrompts,
        average: RunningAverage,
        policy: MemoryPolicy,
        path: Path,
    ) -> None:
        """Play with the average in the student's place; every process takes part."""
        vae = models.codec
        if vae is None:
            raise CheckpointError(f"{self.recipe.start.student} has no VAE that can be drawn with")
        held = {name: weight.detach().clone() for name, weight in trained(models.student).items()}
        _put(models.student, average.weights)
        try:
            draw_sheet(
                wan_model("student", models.student, prompts, vae, {}),
                policy,
                self.recipe.sheet,
                path if self._processes.is_first else None,
                size=self.recipe.sizes.geometry,
            )
        finally:
            _put(models.student, held)

    def _save(self, name: str, weights: Mapping[str, Tensor]) -> None:
        save_trained(
            self._path(name), weights, alpha=self.recipe.lora.alpha, processes=self._processes
        )

    def _path(self, name: str) -> Path:
        return self.folder / name


@torch.no_grad()
def _put(model: Backbone, weights: Mapping[str, Tensor]) -> None:
    for name, weight in trained(model).items():
        weight.copy_(weights[name])
