"""Settings of a stage of distribution matching distillation (DMD), as a recipe gives them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, model_validator

from afstream.errors import ConfigError
from afstream.kvcache.memories import MEMORIES
from afstream.training.dmd.sequences import WindowPlan
from afstream.training.trainer.settings import Amount, Count, Decay, Positive, Seed, Whole
from afstream.validation import Checked


def _known_memory(name: str) -> str:
    if name not in MEMORIES:
        raise ConfigError(f"choose one of {', '.join(MEMORIES)}")
    return name


class DmdConfig(Checked):
    """`[short]` and `[long]`: DMD in the student's own rollouts.

    Attributes:
        memory: what the student's streams remember, at which positions.
        iterations: windows made, and updates of the critic.
        critic_updates: updates of the critic per update of the student.
        batch: sequences that an update learns from, over all processes.
        grad_accum: parts that a process learns from its sequences in, one after the other, to
            need less memory; gradients add up to the same.
        horizon_frames: latent frames of a window, what the teacher sees.
        overlap_frames: latent frames of the window before that a later one begins with.
        max_frames: a sequence ends when another window would make it longer than this.
        switch: whether the prompt changes once in each sequence.
        guidance: of the teacher.
        shift: of the timesteps of teacher and critic, toward noise.
        lr: learning rate of the student, AdamW.
        critic_lr: learning rate of the critic, AdamW.
        betas: of both.
        weight_decay: of both.
        clip: norm above which a gradient is scaled down.
        ema: decay of the moving average of the student's weights, which is what ships.
        ema_from: update of the student with which the average begins.
        seed: of everything that is drawn.
    """

    memory: Annotated[str, AfterValidator(_known_memory)]
    iterations: Count
    critic_updates: Count
    batch: Count
    grad_accum: Count
    horizon_frames: Count
    overlap_frames: Count
    max_frames: Count
    switch: bool
    guidance: Amount
    shift: Positive
    lr: Positive
    critic_lr: Positive
    betas: tuple[Decay, Decay]
    weight_decay: Amount
    clip: Positive
    ema: Decay
    ema_from: Whole
    seed: Seed

    @model_validator(mode="after")
    def _fits(self) -> DmdConfig:
        """Refuse lengths that leave nothing new, and updates that never come."""
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
        if self.switch and not self.plan.boundaries:
            raise ConfigError(
                f"switch is true and max_frames {self.max_frames}; a switch needs a second"
                f" window, so max_frames of {self.horizon_frames + self.plan.new_frames} or more"
            )
        return self

    @property
    def plan(self) -> WindowPlan:
        """Lengths of windows and sequences."""
        return WindowPlan(
            horizon_frames=self.horizon_frames,
            overlap_frames=self.overlap_frames,
            max_frames=self.max_frames,
        )

    def describe(self) -> str:
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
