"""Measures a whole stream: speed, latency, stalls and memory, with the machine they hold for."""

from afstream.bench.machine import Machine
from afstream.bench.meter import Meter, discard
from afstream.bench.result import FirstFrame, Measurement, Rates
from afstream.bench.series import Series, Spread, Stretch
from afstream.bench.load import Load

__all__ = [
    "FirstFrame",
    "Machine",
    "Measurement",
    "Meter",
    "Rates",
    "Series",
    "Load",
    "Spread",
    "Stretch",
    "discard",
]
