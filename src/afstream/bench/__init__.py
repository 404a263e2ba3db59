"""Measures a whole stream: speed, latency, stalls and memory, and describes the machine."""

from afstream.bench.load import Load
from afstream.bench.machine import Machine
from afstream.bench.meter import Meter, discard
from afstream.bench.result import FirstFrame, Measurement, Rates
from afstream.bench.series import Series, Spread, Stretch

__all__ = [
    "FirstFrame",
    "Load",
    "Machine",
    "Measurement",
    "Meter",
    "Rates",
    "Series",
    "Spread",
    "Stretch",
    "discard",
]
