"""Measures a whole stream: speed, latency, stalls and memory, with the machine they hold for."""

from afstream.measure.machine import Machine
from afstream.measure.meter import Meter, discard
from afstream.measure.result import FirstFrame, Measurement, Rates, Stretch
from afstream.measure.series import Series, Spread
from afstream.measure.setup import Setup

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
