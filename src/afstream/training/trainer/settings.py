"""Settings of a recipe that several trainers share, and what their numbers may be."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from afstream.errors import ConfigError
from afstream.validation import Checked

Number = TypeVar("Number", int, float)

# what is more is infinite in float32
FLOAT = 1e38


def at_most(limit: float) -> AfterValidator:
    """A bound far above any run: what lies beyond it is a slip, and would take all memory.

    Sentences about other values need not speak of it, as they would of pydantic's own.
    """

    def check(value: Number) -> Number:
        if value > limit:
            raise ConfigError(
                f"it may be at most {limit:,}" if limit < FLOAT else "it is too large"
            )
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1), at_most(10**9)]
Whole = Annotated[int, Field(ge=0), at_most(10**9)]
Batch = Annotated[int, Field(ge=1), at_most(2**16)]
Frames = Annotated[int, Field(ge=1), at_most(10**4)]
Clips = Annotated[int, Field(ge=1), at_most(10**6)]
# torch's and numpy's generators take no more than 64 bits, and the codec multiplies its seed
Seed = Annotated[int, Field(ge=0, le=10**9)]
Amount = Annotated[float, Field(ge=0), at_most(FLOAT)]
Positive = Annotated[float, Field(gt=0), at_most(FLOAT)]
Share = Annotated[float, Field(ge=0, le=1)]
# of a moving average: at 1 it would never move
Decay = Annotated[float, Field(ge=0, lt=1)]


class MuonConfig(Checked):
    """Settings of a pocket backbone's training, by Muon and AdamW.

    Attributes:
        steps: optimizer steps in all.
        lr: peak learning rate of embeddings, norms, head and text encoder (AdamW).
        hidden_lr: peak learning rate of the layers' matrices (Muon).
        warmup: steps up to the peak.
        decay: steps down from the peak at the end.
        ema: decay of the moving average of the weights, which is what the stage ends with.
        seed: of weights, batches and noise.
    """

    steps: Count
    lr: Positive
    hidden_lr: Positive
    warmup: Count
    decay: Count
    ema: Decay
    seed: Seed

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: a trapezoid.

        Unlike a cosine it does not depend on the total before the decay begins, so a run can be
        made longer while it runs.
        """
        return min((step + 1) / self.warmup, 1.0, max(self.steps - step, 0) / self.decay)


class AdamWConfig(Checked):
    """Settings of a stage that trains with AdamW, on any number of processes.

    Attributes:
        iterations: steps of the trainer.
        batch: samples of a step, over all processes.
        lr: learning rate of the student.
        clip: norm above which a gradient is scaled down.
        ema: decay of the moving average of the student's weights.
        seed: of everything that is drawn.
    """

    iterations: Count
    batch: Batch
    lr: Positive
    betas: tuple[Decay, Decay]
    weight_decay: Amount
    clip: Positive
    ema: Decay
    seed: Seed


def check_chunks(name: str, frames: int, chunk_frames: int) -> None:
    """Refuse a setting, a number of latent frames that is no whole number of chunks.

    Raises:
        ConfigError: it is none.
    """
    if frames % chunk_frames:
        raise ConfigError(f"{name} is {frames}; it must be a multiple of the chunk, {chunk_frames}")
