"""Settings of a stage of distribution matching distillation (DMD): a table of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, model_validator

from afstream.errors import ConfigError
from afstream.kvcache.memories import MEMORIES
from afstream.training.dmd.sequences import WindowPlan
from afstream.training.trainer.settings import AdamWConfig, Amount, Batch, Count, Positive, Whole


def _known_memory(name: str) -> str:
    if name not in MEMORIES:
        raise ConfigError(f"choose one of {', '.join(MEMORIES)}")
    return name


MemoryName = Annotated[str, AfterValidator(_known_memory)]


class DmdConfig(WindowPlan, AdamWConfig):
    """`[short]` and `[long]`: DMD in the student's own rollouts.

    An iteration makes a window and updates the critic; a sample of the batch is a sequence.

    Attributes:
        memory: what the student's streams remember, at which positions.
        critic_updates: updates of the critic per update of the student.
        grad_accum: parts that a process learns from its sequences in, one after the other, to
            need less memory; gradients add up to the same.
        switch: whether the prompt changes once in each sequence.
        full_prompts: whether teacher and critic read a second prompt that leaves nothing out, so
            that the student must find in its memory what its own leaves out.
        guidance: of the teacher.
        shift: of the timesteps of teacher and critic, toward noise.
        critic_lr: learning rate of the critic.
        ema_from: update of the student with which the moving average begins.
    """

    memory: MemoryName
    critic_updates: Count
    grad_accum: Batch
    switch: bool
    full_prompts: bool
    guidance: Amount
    shift: Positive
    critic_lr: Positive
    ema_from: Whole

    @model_validator(mode="after")
    def _fits(self) -> DmdConfig:
        """Refuse windows without new frames, and students that are never updated."""
        if self.iterations % self.critic_updates:
            raise ConfigError(
                f"iterations is {self.iterations}; it must be a multiple of critic_updates,"
                f" {self.critic_updates}"
            )
        if not self.overlap_frames < self.horizon_frames <= self.max_frames:
            raise ConfigError(
                f"overlap_frames, horizon_frames and max_frames are {self.overlap_frames},"
                f" {self.horizon_frames} and {self.max_frames}; the first must be below the"
                " second, and the second at most the third"
            )
        if self.switch and not self.boundaries:
            raise ConfigError(
                f"switch is true and max_frames {self.max_frames}; a switch needs a second"
                f" window, so max_frames of {self.horizon_frames + self.new_frames} or more"
            )
        return self

    def describe(self) -> str:
        """The stage in a few words."""
        length = (
            f"windows of {self.horizon_frames} latent frames, {self.new_frames} new in each"
            f" later one, up to {self.last_frame}"
            if self.boundaries
            else f"one window of {self.horizon_frames} latent frames"
        )
        switch = "a switch in each sequence" if self.switch else "no switch"
        return f"distribution matching, {length}, {switch}, memory {self.memory}"
