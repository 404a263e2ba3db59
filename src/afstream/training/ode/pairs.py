"""Pairs for ODE regression: points on the teacher's own trajectories, and their ends.

The teacher is guided, flow = cond + g * (cond - uncond), which guides its clean prediction by
just as much. A pair keeps the trajectory at the sampler's sigmas, noisiest first, and at 0.

Pairs lie in files of a few, each there only when it is whole, so that a run that was stopped goes
on with the first file that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from afstream.checkpoints.files import save_tensors
from afstream.checkpoints.safetensors import damage
from afstream.config import TIMESTEPS, SamplerConfig
from afstream.errors import CheckpointError, ConfigError
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_flow
from afstream.training.dmd.losses import guided
from afstream.training.dmd.trainer import Prompts
from afstream.training.ode.solver import Solver, SolverGrid, solver_grid, trajectory
from afstream.training.trainer.log import Report
from afstream.training.trainer.rng import normal
from afstream.training.trainer.settings import Amount, Batch, Clips, Frames, Seed, at_most
from afstream.validation import Checked

SolverSteps = Annotated[int, Field(ge=1), at_most(10**4)]


class PairsConfig(Checked):
    """`[pairs]`: the teacher's trajectories, for ODE regression.

    Attributes:
        pairs: number of pairs; pair i is of prompt i.
        frames: latent frames of a clip, as many as the teacher sees at once.
        steps: of the solver, from noise to clip.
        solver: `heun` asks the teacher twice a step but for the last one; `euler` once, and
            its clips have less contrast than the teacher's.
        guidance: of the teacher.
        shard: pairs in a file.
        batch: pairs side by side in a model call.
        seed: of the noise; a pair's depends on it and on the pair's number alone.
    """

    pairs: Clips
    frames: Frames
    steps: SolverSteps
    solver: Solver
    guidance: Amount
    shard: Clips
    batch: Batch
    seed: Seed

    @property
    def num_files(self) -> int:
        """Files that hold all pairs."""
        return -(-self.pairs // self.shard)

    def numbers(self, file: int) -> range:
        """Numbers of the pairs in a file."""
        return range(self.pairs)[file * self.shard : (file + 1) * self.shard]


def make_pairs(
    teacher: Backbone,
    prompts: Prompts,
    folder: Path,
    config: PairsConfig,
    sampler: SamplerConfig,
    size: tuple[int, int, int],
    *,
    files: Sequence[int] | None = None,
    report: Report = lambda _: None,
) -> None:
    """Fill a folder with pairs of one bidirectional teacher; files that are there already stay.

    `pairs-00000.safetensors` and so on hold `latents` [n, K, F, C, h, w] in float16, at the
    sampler's sigmas and at the end, and `numbers` [n] of pairs and prompts. `size` is that of a
    latent frame, (C, h, w); `files` are those that this process makes, by default all. After each
    the report is called with `kind`, and `done` of `of` pairs.

    Raises:
        ConfigError: the folder holds pairs that were made in another way, or the solver has
            too few steps.
    """
    grid = solver_grid(sampler, config.steps)
    settings = _settings(config, sampler, size)
    wanted = range(config.num_files) if files is None else files
    chosen = {file: config.numbers(file) for file in wanted}
    done, total = 0, sum(map(len, chosen.values()))
    for file, numbers in chosen.items():
        path = folder / f"pairs-{file:05d}.safetensors"
        if not _is_made(path, settings, numbers):
            parts = [
                _make(teacher, prompts, numbers[at : at + config.batch], config, grid, size)
                for at in range(0, len(numbers), config.batch)
            ]
            content = {"latents": torch.cat(parts), "numbers": torch.tensor(numbers)}
            save_tensors(path, content, {"settings": json.dumps(settings)})
        done += len(numbers)
        report({"kind": "pairs", "done": done, "of": total})


@torch.no_grad()
def _make(
    teacher: Backbone,
    prompts: Prompts,
    numbers: Sequence[int],
    config: PairsConfig,
    grid: SolverGrid,
    size: tuple[int, int, int],
) -> Tensor:
    """The trajectories of some pairs, as they are stored."""
    noise = normal((config.frames, *size), numbers, config.seed, "ode noise").to(teacher.device)
    cond = teacher.text_context(prompts.pair(numbers)[0])
    uncond = teacher.text_context(prompts.unconditional(len(numbers)))

    def flow(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((len(x),), TIMESTEPS * sigma, device=x.device)
        return guided(
            predict_flow(teacher, x, timestep, cond),
            predict_flow(teacher, x, timestep, uncond),
            config.guidance,
        )

    return trajectory(flow, noise, grid, config.solver).half().cpu()


class Pairs:
    """The pairs of a folder, each read from its file when it is needed.

    They come with the number of each pair's prompt, latent frames of a clip, size of a latent frame
    (C, h, w), and the denoise steps whose sigmas were kept.

    Raises:
        CheckpointError: there are none, a file is torn, or two were made in different ways.
    """

    def __init__(self, folder: Path) -> None:
        self.numbers: list[int] = []
        self._places: list[tuple[Path, int]] = []
        found: dict[str, Any] = {}
        for path in sorted(folder.glob("pairs-*.safetensors")):
            settings, numbers = _read_head(path)
            if found and settings != found:
                raise CheckpointError(
                    f"{path} was made in another way than the pairs beside it; make them anew"
                )
            found = settings
            self.numbers += numbers
            self._places += [(path, row) for row in range(len(numbers))]
        if not found:
            raise CheckpointError(f"{folder} holds no ODE pairs; make them first")
        self.frames: int = found["frames"]
        self.size: tuple[int, int, int] = tuple(found["size"])
        self.sampler = SamplerConfig(steps=tuple(found["denoise_steps"]), shift=found["shift"])

    def __len__(self) -> int:
        return len(self._places)

    def latents(self, indices: Sequence[int]) -> Tensor:
        """Trajectories [B, K, F, C, h, w] in float32, the last of the K the end."""
        found: list[Tensor] = []
        for path, row in (self._places[index] for index in indices):
            with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                found.append(file.get_slice("latents")[row].float())
        return torch.stack(found)


def _settings(
    config: PairsConfig, sampler: SamplerConfig, size: tuple[int, int, int]
) -> dict[str, Any]:
    """Settings that all pairs of one folder share."""
    # how many there are, and how many are made together, changes none of them
    settings = config.model_dump(exclude={"pairs", "batch"})
    sampled = {"denoise_steps": list(sampler.steps), "shift": sampler.shift}
    return {**settings, "size": list(size), **sampled}


def _is_made(path: Path, settings: Mapping[str, Any], numbers: Sequence[int]) -> bool:
    """Whether a file holds just these pairs, and is as it was written.

    Raises:
        ConfigError: they were made in another way.
    """
    if not path.is_file():
        return False
    try:
        found, held = _read_head(path)
    except CheckpointError:
        return False
    for name, value in settings.items():
        if found.get(name) != value:
            raise ConfigError(
                f"the ODE pairs in {path} were made with {name} {found.get(name)}, now it is"
                f" {value}; set it back, or choose another folder"
            )
    return held == list(numbers) and not damage(path)


def _read_head(path: Path) -> tuple[dict[str, Any], list[int]]:
    """Settings and numbers of a file of pairs.

    Raises:
        CheckpointError: it is torn, or something else.
    """
    try:
        with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
            settings = json.loads(file.metadata()["settings"])
            return settings, file.get_tensor("numbers").tolist()
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as ODE pairs; make them anew") from error
