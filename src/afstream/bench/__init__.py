"""Measures a whole stream: speed, latency, stalls and memory, with the machine they hold for."""

from afstream.bench.machine import Machine
from afstream.bench.meter import Meter, discard
from afstream.bench.result import FirstFrame, Measurement, Rates, Stretch
from afstream.bench.series import Series, Spread
from afstream.bench.setup import Setup

__all__ = [
    "FirstFrame",
    "Machine",
    "Measurement",
    "Meter",
    "Rates",
    "Series",
    "Setup",
    "Spread",
    "Stretch",
    "discard",
]
