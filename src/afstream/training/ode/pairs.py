"""Pairs for ODE regression: where the teacher's own trajectories pass, and where they end.

The teacher is guided, flow = cond + g * (cond - uncond), which guides its clean prediction by
just as much. A pair keeps the trajectory at the sampler's sigmas, noisiest first, and at 0.

Pairs lie in files of a few, each written under another name first, so that a run that was
stopped goes on with the first file that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from afstream.config import TIMESTEPS, SamplerConfig
from afstream.errors import CheckpointError, ConfigError
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_flow
from afstream.training.dmd.losses import guided
from afstream.training.dmd.trainer import Prompts
from afstream.training.machinery.draws import normal
from afstream.training.ode.solver import Solver, SolverGrid, solver_grid, trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig:
    """How pairs are made.

    Attributes:
        pairs: how many; pair i is of prompt i.
        frames: latent frames of a clip, as many as the teacher sees at once.
        steps: of the solver, from noise to clip.
        solver: `heun` asks the teacher twice a step but for the last one; `euler` once, and
            comes to clips of less contrast than the teacher's.
        guidance: g of the teacher.
        shard: pairs in a file.
        batch: pairs side by side in a model call.
        seed: of the noise; a pair's depends on it and on the pair's number alone.
    """

    pairs: int
    frames: int = 21
    steps: int = 48
    solver: Solver = "heun"
    guidance: float = 3.0
    shard: int = 16
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse counts below 1, and a solver that there is not."""
        counts = {
            "pairs": self.pairs,
            "frames": self.frames,
            "steps": self.steps,
            "shard": self.shard,
            "batch": self.batch,
        }
        for name, count in counts.items():
            if count < 1:
                raise ConfigError(f"{name} of the ODE pairs is {count}; it must be at least 1")
        if self.solver not in ("heun", "euler"):
            raise ConfigError(f"the ODE solver is {self.solver!r}; choose heun or euler")


def make_pairs(
    teacher: Backbone,
    prompts: Prompts,
    folder: Path,
    config: PairsConfig,
    sampler: SamplerConfig,
    size: tuple[int, int, int],
    *,
    shards: Sequence[int] | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Fill a folder with pairs of one teacher; what stands there already is left.

    Args:
        teacher: bidirectional.
        prompts: their first ones are used.
        folder: where `pairs-00000.safetensors` and so on go: `latents` [n, 5, F, C, h, w] in
            float16, the last of the five the end, and `numbers` [n] of pairs and prompts.
        config: how.
        sampler: whose sigmas are kept.
        size: of a latent frame, (C, h, w).
        shards: the files that this process makes; all of them when None.
        report: called with the number of pairs in each file that is there.

    Raises:
        ConfigError: the folder holds pairs that were made in another way, or the solver has
            too few steps.
    """
    grid = solver_grid(sampler, config.steps)
    settings = _settings(config, sampler, size)
    folder.mkdir(parents=True, exist_ok=True)
    last = -(-config.pairs // config.shard)
    for shard in range(last) if shards is None else shards:
        numbers = range(config.pairs)[shard * config.shard : (shard + 1) * config.shard]
        path = folder / f"pairs-{shard:05d}.safetensors"
        if not _is_made(path, settings, numbers):
            parts = [
                _make(teacher, prompts, numbers[at : at + config.batch], config, grid, size)
                for at in range(0, len(numbers), config.batch)
            ]
            content = {"latents": torch.cat(parts), "numbers": torch.tensor(numbers)}
            partial = path.with_suffix(".partial")
            save_file(content, partial, {"settings": json.dumps(settings)})
            partial.replace(path)
        report(len(numbers))


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
    """The pairs of a folder, read from their files when they are asked for.

    Attributes:
        numbers: of each pair's prompt.
        frames: latent frames of a clip.
        size: of a latent frame, (C, h, w).
        sampler: whose sigmas were kept.

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
    """What pairs of one folder have in common."""
    return {
        "frames": config.frames,
        "size": list(size),
        "steps": config.steps,
        "solver": config.solver,
        "guidance": config.guidance,
        "shard": config.shard,
        "seed": config.seed,
        "denoise_steps": list(sampler.steps),
        "shift": sampler.shift,
    }


def _is_made(path: Path, settings: Mapping[str, Any], numbers: Sequence[int]) -> bool:
    """Whether a file holds just these pairs; a torn one does not.

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
    return held == list(numbers)


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
