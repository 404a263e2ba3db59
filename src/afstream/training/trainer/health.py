"""Warnings that a run goes wrong, from each step's metrics: the failures that others report.

A metric is compared with its own past: the median of its last few values with the median of
those before. While it is out of bounds there is one warning, and its past stands still, so that
what is wrong does not become what is usual.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean, median
from typing import Annotated

from pydantic import Field

from afstream.errors import TrainingError
from afstream.training.trainer.settings import Count, Positive, Share, at_most
from afstream.validation import Checked

# all of them are kept
Values = Annotated[int, Field(ge=1), at_most(10**6)]

WARNINGS = {
    "critic": "the critic's loss is {} times what it was; it may have collapsed: lower critic_lr,"
    " or give it more updates",
    "norm": "the gradient's norm is {} times what it was; it explodes: lower lr, or guidance",
    "dmd_grad": "the DMD gradient is {} times what it was; it explodes: lower lr, or guidance",
    "motion": "motion is {} of what it was at first; the model may be turning into still pictures:"
    " look at the sheets, lower lr or guidance",
}


class WatchConfig(Checked):
    """`[watch]`: thresholds of the warnings that a run goes wrong.

    Attributes:
        critic_low: the critic has collapsed below this share of its loss's past.
        critic_high: the critic has collapsed above this many times its loss's past.
        explosion: a gradient explodes at this many times its past.
        motion_low: motion is lost below this share of the first windows' motion.
        recent: values that count as now.
        history: values that count as the past.
        warm_up: values of the past before anything is judged.
        skips_in_row: skipped steps in a row that end the run.
        skips_in_all: skipped steps in all that end the run.
    """

    critic_low: Share
    critic_high: Positive
    explosion: Positive
    motion_low: Share
    recent: Values
    history: Values
    warm_up: Values
    skips_in_row: Count
    skips_in_all: Count


class _Signal:
    """A metric and its past, which stands still while the metric is out of bounds.

    What is now may be `low` to `high` times what was.
    """

    def __init__(self, name: str, config: WatchConfig, low: float, high: float) -> None:
        self._warning, self._low, self._high = WARNINGS[name], low, high
        self._now: deque[float] = deque(maxlen=config.recent)
        self._past: deque[float] = deque(maxlen=max(config.history, config.warm_up))
        self._warm_up = config.warm_up
        self._stands = False

    def warning(self, value: float) -> str:
        """The warning after one more value; empty if there is none."""
        if len(self._now) == self._now.maxlen and not self._stands:
            self._past.append(self._now[0])
        self._now.append(value)
        usual = median(self._past) if len(self._past) >= self._warm_up else 0.0
        ratio = median(self._now) / usual if usual > 0 else None
        self._stands = ratio is not None and not self._low <= ratio <= self._high
        return self._warning.format(f"{ratio:.3g}") if self._stands else ""


class _Motion:
    """The mean of the last motions beside that of the first ones."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self._first: list[float] = []
        self._now: deque[float] = deque(maxlen=config.recent)

    def warning(self, value: float) -> str:
        """See `_Signal.warning`."""
        if len(self._first) < self._config.warm_up:
            self._first.append(value)
            return ""
        self._now.append(value)
        share = fmean(self._now) / max(fmean(self._first), 1e-12)
        if len(self._now) < self._config.recent or share >= self._config.motion_low:
            return ""
        return WARNINGS["motion"].format(f"{share:.2f}")


class Health:
    """Watches one stage, step by step.

    The past is not kept in checkpoints: a resumed run gathers it again.
    """

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self._signals = {
            "critic": _Signal("critic", config, config.critic_low, config.critic_high),
            "norm": _Signal("norm", config, 0.0, config.explosion),
            "dmd_grad": _Signal("dmd_grad", config, 0.0, config.explosion),
            "motion": _Motion(config),
        }
        self._warned: set[str] = set()
        self._in_row = 0
        self.skipped = 0

    def see(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Warnings after one step, each once until its cause is gone.

        Metrics: `critic` is the critic's loss, `norm` the norm of the student's gradient,
        `dmd_grad` the mean size of the DMD gradient, `motion` the mean change from one latent frame
        to the next. Whatever is absent is not judged.

        Raises:
            TrainingError: too many steps came out without numbers.
        """
        lost = [name for name, value in metrics.items() if not math.isfinite(value)]
        found = self._skip(step, lost) if lost else self._judge(metrics)
        new = [text for cause, text in found.items() if text and cause not in self._warned]
        self._warned -= found.keys()
        self._warned |= {cause for cause, text in found.items() if text}
        return [f"step {step}: {text}" for text in new]

    def _skip(self, step: int, lost: list[str]) -> dict[str, str]:
        """Count a step that changed nothing."""
        config = self._config
        self._in_row += 1
        self.skipped += 1
        for count, limit, words in (
            (self._in_row, config.skips_in_row, "in a row"),
            (self.skipped, config.skips_in_all, "in all"),
        ):
            if count >= limit:
                raise TrainingError(
                    f"step {step} and others, {count} {words}, came out without numbers"
                    f" ({', '.join(lost)}); the last checkpoint is kept: lower the learning"
                    " rates and go on from it with --resume --accept-changes"
                )
        text = f"{', '.join(lost)} came out without numbers; nothing was learned from it"
        return {"numbers": f"{text} ({self.skipped} steps skipped in all)"}

    def _judge(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Causes that were looked at in a step with numbers, each with its warning if there is."""
        self._in_row = 0
        judged = {name: metrics[name] for name in self._signals if name in metrics}
        warnings = {name: self._signals[name].warning(value) for name, value in judged.items()}
        return {"numbers": "", **warnings}
