"""Laps of work that may run on a GPU, timed without making the host wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

# a point in time: seconds of the host's clock, or an event of a CUDA stream
Event = float | torch.cuda.Event


class Stopwatch:
    """Times laps, each on the stream on which it begins and ends.

    Args:
        event: gives the present point in time, such as `host_event`.
    """

    def __init__(self, event: Callable[[], Event]) -> None:
        self._event = event
        self._laps: dict[str, tuple[Event, Event]] = {}
        self.began = event()

    @contextmanager
    def lap(self, name: str) -> Generator[None, None, None]:
        """Time the block."""
        start = self._event()
        yield
        self._laps[name] = start, self._event()

    def read_ms(self) -> dict[str, float]:
        """Milliseconds of every lap; on a GPU the work must be done by then."""
        return {name: span_ms(*ends) for name, ends in self._laps.items()}


def host_event() -> float:
    """Seconds of the host's clock."""
    return time.perf_counter()


def gpu_event(device: torch.device) -> torch.cuda.Event:
    """An event that is reached when the device's current stream has done its work so far."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def span_ms(start: Event, stop: Event) -> float:
    """Milliseconds between two events of one clock; both must have been reached."""
    if isinstance(start, (int, float)) and isinstance(stop, (int, float)):
        return 1000 * (stop - start)
    if isinstance(start, (int, float)) or isinstance(stop, (int, float)):
        raise TypeError("a time of the host and an event of a GPU have no common clock")
    return start.elapsed_time(stop)
