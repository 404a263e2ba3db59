"""The Wan recipe in one folder: ODE regression, short, long, export."""

from __future__ import annotations

from pathlib import Path

from afstream.distill.loop import Report
from afstream.distill.recipes.tables import WanRecipe
from afstream.distill.stages import Stage
from afstream.distill.wan_stages import wan_stages
from afstream.errors import TrainingError


class WanRun:
    """See `afstream.distill.stages.Run`.

    Args:
        recipe: what is done.
        folder: where everything is written.
    """

    def __init__(self, recipe: WanRecipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.stages = wan_stages(recipe, folder)

    def do(self, stage: Stage, report: Report) -> None:
        """See `Run.do`; so far a Wan recipe can be planned only."""
        del report
        raise TrainingError(
            f"stage {stage.name} of a Wan recipe cannot be run by this version yet; --dry-run"
            " shows its plan and what it needs"
        )
