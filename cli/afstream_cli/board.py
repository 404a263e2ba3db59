"""Training logs for TensorBoard, where that is installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from afstream.errors import ConfigError

PLACE = ("stage", "step")


class Board:
    """Writes training reports as TensorBoard scalars.

    Args:
        folder: where its event files go; nothing is written before the first report.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ConfigError(
                "--tensorboard needs the package tensorboard; install it with: pip install"
                " tensorboard"
            ) from error
        self._open = partial(module.SummaryWriter, str(folder))
        self._writer: Any = None

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Add one report of a stage; each of its numbers becomes a curve."""
        self._writer = self._writer or self._open()
        for name, value in entry.items():
            if name not in PLACE:
                self._writer.add_scalar(f"{entry['stage']}/{name}", value, entry["step"])

    def close(self) -> None:
        """Write all buffered entries."""
        if self._writer:
            self._writer.close()
