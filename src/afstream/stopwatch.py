"""Laps of work that may run on a GPU, timed without making the host wait."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Times laps: with events on a GPU, with the host's clock elsewhere.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._names: list[str] = []
        self._marks = [self._mark()]

    def lap(self, name: str) -> None:
        """End the lap `name` here."""
        self._names.append(name)
        self._marks.append(self._mark())

    def read_ms(self) -> dict[str, float]:
        """Milliseconds of every lap; on a GPU the work must be done by then."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        spans = [self._between_ms(start, stop) for start, stop in pairs]
        return dict(zip(self._names, spans, strict=True))

    def _mark(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _between_ms(start: float | torch.cuda.Event, stop: float | torch.cuda.Event) -> float:
        if isinstance(start, torch.cuda.Event) and isinstance(stop, torch.cuda.Event):
            return start.elapsed_time(stop)
        if isinstance(start, float) and isinstance(stop, float):
            return 1000 * (stop - start)
        raise AssertionError
